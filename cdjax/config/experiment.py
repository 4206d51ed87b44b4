"""An experiment as data: what is distilled into what, and how.

In: a Python file from `configs/` with `get_config()`, and `a.b=c` overrides. Out: one frozen `Experiment`.
A field is here only if two experiments differ in it; everything else is an argument default where it is used.
"""

import json
import runpy
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cdjax.config import read
from cdjax.errors import UserError

DEFINITION = "{definition}"  # in an instruction, what the task is


@dataclass(frozen=True)
class Demonstration:
    """One solved input, shown in a prompt."""

    input: str
    output: str
    explanation: str = ""


@dataclass(frozen=True)
class Context:
    """What a view shows around the task input. All parts are optional; the empty context is the bare input.

    A teacher with an `ensemble` reads several prompts at once, each with other demonstrations. Every token of its
    answer is chosen by the mean of their probabilities, and that mean is the token's target: sample and target are of
    one distribution. (The paper samples an answer under one prompt, and averages the targets alone.)
    """

    instruction: str = ""  # {definition} in it stands for the task's own
    file: str = ""  # a text file that stands in the instruction's place, as it is
    demonstrations: tuple[Demonstration, ...] = ()  # written out here, and then ...
    shots: int = 0  # ... so many of the task's own demonstrations, the first ones ...
    skip: int = 0  # ... after leaving out so many
    ensemble: int = 0  # the teacher alone: so many prompts instead of one, ...
    drawn: int = 0  # ... each with so many of these demonstrations, drawn at random, the same in every run
    negatives: tuple[Demonstration, ...] = ()  # answers not to give, after the demonstrations, and then ...
    negative_shots: int = 0  # ... the first so many of the task's own
    explanations: bool = False  # show each demonstration's explanation, negative ones' too
    request: str = ""  # after the input, as "Let's think step by step."


@dataclass(frozen=True)
class Template:
    """How a view becomes text: the tokenizer's chat template, or plain text."""

    chat: bool = False
    system: str = "{instruction}\n\n"  # plain text only
    positive: str = ""  # before each demonstration, as "Positive Example {number} -\n"
    negative: str = (
        "Negative Example {number} -\n"  # before each answer not to give; in a chat they follow the instruction
    )
    ask: str = ""  # before the input itself, as "Now complete the following example -\n"
    question: str = "{input}\n"
    answer: str = "{output}\n"
    explanation: str = "Explanation: {explanation}\n"
    stop: str = "\n"  # plain text only: an answer ends with the token that contains this


@dataclass(frozen=True)
class Inputs:
    """D, the task inputs to distil on, in the paper's three ways; those asked for are joined, duplicates removed."""

    pool: bool = False  # the task's own unlabelled inputs
    tasks: tuple[str, ...] = ()  # other tasks, whose pools are joined in: any of their inputs may be asked of this one
    file: str = ""  # JSONL with an "input" field, or text with one input a line
    rule: int = 0  # so many drawn from the task's rule
    written: int = 0  # so many samples written by the model from a few-shot prompt of inputs
    written_shots: int = 8  # inputs shown in that prompt
    written_tokens: int = 32  # longer ones are dropped
    limit: int = 0  # keep at most so many, chosen at random; 0 keeps all


@dataclass(frozen=True)
class Keep:
    """f and the filters: what part of the teacher's answer the student must produce, and which answers count."""

    span: Literal["all", "regex", "after"] = "all"
    pattern: str = ""  # for "regex" the first group (or the match), for "after" the marker
    filters: tuple[Literal["finished", "non_empty", "correct", "duplicate"], ...] = ("finished", "non_empty")
    majority: bool = False  # with several samples an input, keep those that give the most common answer


@dataclass(frozen=True)
class Operation:
    """The paper's 4-tuple (D, T_teacher, T_student, f) for one task."""

    name: str = "operation"
    task: str = ""  # a name in `cdjax.tasks`; empty: the task is just its `inputs.file`
    inputs: Inputs = Inputs()
    context: Context = Context()
    student: Context = Context()
    keep: Keep = Keep()


@dataclass(frozen=True)
class Plan:
    """How operations combine (paper, section 2.3).

    simultaneous: all in one round. sequential: one a round, the teacher stays the original model.
    recursive: one a round, the student of a round is the teacher of the next.
    With `rounds` a round is a group: its operations are distilled together, and its student is scored on them alone.
    """

    order: Literal["simultaneous", "sequential", "recursive"] = "simultaneous"
    operations: tuple[Operation, ...] = ()  # empty: the experiment's own operation alone
    rounds: tuple[tuple[str, ...], ...] = ()  # the names of each round's operations; empty: as the order says
    repeat: int = 1  # run the whole list so many times
    ema: float = 0.0  # recursive only: how much of the teacher stays when the student of a round is averaged into it


@dataclass(frozen=True)
class Sampling:
    """How the teacher's answers are drawn."""

    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0 keeps the whole vocabulary
    top_p: float = 1.0
    per_input: int = 1
    batch: int = 64
    weights: Literal["full", "int8"] = "full"  # the teacher's, while it answers
    draft: int = 0  # tokens that the student writes before the teacher reads them; 0: the teacher writes each itself


@dataclass(frozen=True)
class Objective:
    """The divergence between teacher and student at every kept token, named as in GKD (arXiv 2306.13649)."""

    kind: Literal["forward_kl", "reverse_kl", "jsd", "cross_entropy"] = "forward_kl"
    beta: float = 0.5  # jsd only; 0 is forward_kl, 1 is reverse_kl
    temperature: float = 1.0
    alpha: float = 0.0  # weight of cross-entropy on the sampled ids; 1 - alpha on the divergence
    targets: Literal["top_k", "sampled", "full"] = "top_k"
    top_k: int = 32  # ids kept a position, with the mass of the rest
    draws: int = 100  # ids sampled a position (the paper's 100)

    @property
    def reads_teacher(self) -> bool:
        """Whether an update needs the teacher itself, to read the kept answers again."""
        return self.targets == "full" and self.kind != "cross_entropy"


@dataclass(frozen=True)
class Adapter:
    """Low-rank adapter; rank 0 trains all weights."""

    rank: int = 0
    alpha: float = 16.0  # the update is scaled by alpha / rank


@dataclass(frozen=True)
class Optim:
    """AdamW with warm-up, a schedule and clipping by global norm."""

    lr: float = 1e-4
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0
    weight_decay: float = 0.0  # matrices only: never norms, biases or embeddings
    clip: float = 1.0  # 0 does not clip


@dataclass(frozen=True)
class Update:
    """How long and in what pieces the student learns in one round."""

    epochs: int = 1
    batch: int = 16
    micro_batches: int = 1
    checkpoint_every: int = 0  # steps; 0 saves only at the end of a stage


@dataclass(frozen=True)
class Tune:
    """The student's learning rate and epoch, chosen on labelled validation examples as the baseline's are."""

    lrs: tuple[float, ...] = ()  # empty: optim.lr, and the last checkpoint counts
    every: int = 1  # epochs between two scores


@dataclass(frozen=True)
class Limits:
    """Length budgets in tokens; each view has its own."""

    teacher_prompt: int = 1024
    student_prompt: int = 512
    completion: int = 64
    overflow: Literal["error", "drop"] = "error"


@dataclass(frozen=True)
class Labelled:
    """Solved examples of a task to fine-tune on, and how they are shown."""

    task: str
    count: int = 0  # the first so many of the task's own demonstrations
    view: Context = Context()  # around each input
    demonstrations: tuple[Demonstration, ...] = ()  # written out here instead


@dataclass(frozen=True)
class Supervised:
    """Fine-tuning on solved examples: cross-entropy on their written answers."""

    name: str = ""  # of a baseline in the results
    examples: tuple[Labelled, ...] = ()  # all of them at once; empty: no fine-tuning
    start: Literal["model", "teacher"] = "model"  # the weights it begins with; the teacher's own are the model's
    optim: Optim = Optim()
    update: Update = Update()


@dataclass(frozen=True)
class GradientDescent:
    """The baseline: fine-tune on the demonstrations themselves, the best of a grid on validation examples."""

    lrs: tuple[float, ...] = ()  # empty: no baseline
    epochs: int = 20  # scored after every `every` epochs; the best one counts
    every: int = 5
    batch: int = 16


@dataclass(frozen=True)
class Score:
    """What is measured before and after."""

    examples: int = 128  # test examples at most
    validation: int = 64  # examples that choose points of the baseline's grid and the student's; never test examples
    held_out: int = 32  # inputs for the held-out KL, never distilled on
    forgetting: int = 16  # unrelated prompts
    wrong_association: bool = False  # also ask test inputs under other operations' student views: low is good
    baseline: GradientDescent = GradientDescent()
    supervised: tuple[Supervised, ...] = ()  # further baselines, each scored as the student is


@dataclass(frozen=True)
class Mesh:
    """Devices along each axis; -1 for `data` takes what is left."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True)
class Experiment:
    """Everything that one run needs; saved as `config.json` beside its results."""

    name: str
    model: str  # a directory, hub id, .gguf file, or pypi:PACKAGE; see cdjax.load_model
    task: str = ""
    data_dir: str = ""
    template: Template = Template()
    context: Context = Context()
    student: Context = Context()
    inputs: Inputs = Inputs()
    keep: Keep = Keep()
    teacher: Supervised = Supervised()  # what makes the teacher out of the model, before the first round
    start: Literal["teacher", "model"] = "teacher"  # what the student begins as; they differ if the teacher was tuned
    replay: tuple[Labelled, ...] = ()  # solved examples that every round learns beside the answers, against forgetting
    plan: Plan = Plan()
    sampling: Sampling = Sampling()
    objective: Objective = Objective()
    adapter: Adapter = Adapter()
    optim: Optim = Optim()
    update: Update = Update()
    tune: Tune = Tune()
    limits: Limits = Limits()
    score: Score = Score()
    mesh: Mesh = Mesh()
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"  # auto: what is faster here, measured at the start
    remat: Literal["none", "dots", "full"] = "dots"  # what the backward pass keeps: all, products, or nothing
    seeds: tuple[int, ...] = (0,)

    def operations(self) -> tuple[Operation, ...]:
        """The plan's operations, or the experiment's own one."""
        own = Operation(self.name, self.task, self.inputs, self.context, self.student, self.keep)
        return self.plan.operations or (own,)

    def rounds(self) -> tuple[tuple[int, ...], ...]:
        """The operations, by number, that each round distils together (paper, section 2.3)."""
        names = [operation.name for operation in self.operations()]
        every = tuple(range(len(names)))
        groups = tuple(tuple(map(names.index, group)) for group in self.plan.rounds)
        once = groups or ((every,) if self.plan.order == "simultaneous" else tuple((number,) for number in every))
        return once * self.plan.repeat

    def scored(self, number: int) -> tuple[int, ...]:
        """The operations that the student of round `number` is scored on: all, where the plan does not group them."""
        return self.rounds()[number] if self.plan.rounds else tuple(range(len(self.operations())))


def load_config(path: str | Path) -> Experiment:
    """The Experiment of a Python file with `get_config()`, or of a run's `config.json`; its types are checked."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no config file {path}")
    if path.suffix == ".json":
        try:
            return from_json(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8 text") from None
    try:
        made = runpy.run_path(str(path))["get_config"]()
    except UserError:
        raise
    except KeyError as error:
        if error.args != ("get_config",):
            raise UserError(_blame(path, error)) from error
        raise UserError(f"{path} has no get_config(); define one that returns a cdjax.Experiment") from None
    except Exception as error:  # whatever a user's file does wrong is the user's to see, at the line where it happened
        raise UserError(_blame(path, error)) from error
    if not isinstance(made, Experiment):
        raise UserError(f"get_config() in {path} must return a cdjax.Experiment, got a {type(made).__name__}")
    return read.convert(Experiment, made, "")


def override(cfg: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """A copy with `{"optim.lr": 3e-5, "plan.operations.0.name": "first"}` set, in that order.

    A value may be text as on the command line. A dict stands for a whole part: what it leaves out takes its default.
    """
    for path, value in changes.items():
        cfg = read.assign(Experiment, cfg, path.split("."), value)
    return cfg


def to_json(cfg: Experiment) -> str:
    """Every field, defaults included, as indented JSON."""
    return json.dumps(asdict(cfg), indent=2, ensure_ascii=False)


def from_json(text: str) -> Experiment:
    """The inverse of `to_json`; fields that are left out take their defaults."""
    return read.convert(Experiment, text, "")


def _blame(path: Path, error: Exception) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line, said = (lines or [1])[-1], str(error)
    if isinstance(error, SyntaxError):
        line, said = error.lineno, error.msg
    return f"{path}, line {line}: {type(error).__name__}: {' '.join(said.split())}"
