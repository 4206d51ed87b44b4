"""An experiment as data: what is distilled into what, and how.

In: a Python file from `configs/` with `get_config()`, and `a.b=c` overrides. Out: one frozen `Experiment`.
A field is here only if two experiments differ in it; everything else is an argument default where it is used.
"""

import functools
import json
import re
import runpy
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cdjax import overrides
from cdjax.errors import UserError

DEFINITION = "{definition}"  # in an instruction, what the task is
SCORED = {"teacher", "before", "after", "gradient_descent"}  # the scores that every run has, or may have


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
    return overrides.convert(Experiment, made, "")


def override(cfg: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """A copy with `{"optim.lr": 3e-5, "plan.operations.0.name": "first"}` set, in that order.

    A value may be text as on the command line. A dict stands for a whole part: what it leaves out takes its default.
    """
    for path, value in changes.items():
        cfg = overrides.assign(Experiment, cfg, path.split("."), value)
    return cfg


def to_json(cfg: Experiment) -> str:
    """Every field, defaults included, as indented JSON."""
    return json.dumps(asdict(cfg), indent=2, ensure_ascii=False)


def from_json(text: str) -> Experiment:
    """The inverse of `to_json`; fields that are left out take their defaults."""
    return overrides.convert(Experiment, text, "")


def validate(cfg: Experiment) -> None:
    """Raises one UserError that lists everything in the experiment that cannot work, before anything is compiled."""
    problems = [*_numbers(cfg), *_whole(cfg), *_update(cfg), *_plan(cfg), *_supervised(cfg), *_ensembles(cfg)]
    for index, operation in enumerate(cfg.operations()):
        where = f"plan.operations.{index}." if cfg.plan.operations else ""
        problems += (where + problem for problem in _operation(operation, cfg.sampling))
    if problems:
        raise UserError("; ".join(problems))


def _blame(path: Path, error: Exception) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line, said = (lines or [1])[-1], str(error)
    if isinstance(error, SyntaxError):
        line, said = error.lineno, error.msg
    return f"{path}, line {line}: {type(error).__name__}: {' '.join(said.split())}"


# The least value of every number that has one.
LEAST: dict[str, float] = {
    "sampling.temperature": 0,
    "sampling.top_k": 0,
    "sampling.per_input": 1,
    "sampling.batch": 1,
    "sampling.draft": 0,
    "objective.top_k": 1,
    "objective.draws": 1,
    "adapter.rank": 0,
    "optim.warmup": 0,
    "optim.weight_decay": 0,
    "optim.clip": 0,
    "update.epochs": 1,
    "update.batch": 1,
    "update.micro_batches": 1,
    "update.checkpoint_every": 0,
    "limits.teacher_prompt": 1,
    "limits.student_prompt": 1,
    "limits.completion": 1,
    "tune.every": 1,
    "score.examples": 1,
    "score.validation": 0,
    "score.held_out": 0,
    "score.forgetting": 0,
    "score.baseline.epochs": 1,
    "score.baseline.every": 1,
    "score.baseline.batch": 1,
    "plan.repeat": 1,
    "mesh.fsdp": 1,
    "mesh.tensor": 1,
}
POSITIVE = ("optim.lr", "adapter.alpha", "objective.temperature", "sampling.top_p")
FRACTIONS = ("objective.beta", "objective.alpha", "sampling.top_p")


def _numbers(cfg: Experiment) -> Iterator[str]:
    def at(path: str) -> Any:
        return functools.reduce(getattr, path.split("."), cfg)

    for path, least in LEAST.items():
        if at(path) < least:
            yield f"{path} must be at least {least:g}, got {at(path):g}"
    for path in POSITIVE:
        if at(path) <= 0:
            yield f"{path} must be more than 0, got {at(path):g}"
    for path in FRACTIONS:
        if not 0 <= at(path) <= 1:
            yield f"{path} must be between 0 and 1, got {at(path):g}"
    if not cfg.seeds or len(set(cfg.seeds)) < len(cfg.seeds) or not 0 <= min(cfg.seeds) <= max(cfg.seeds) < 2**32:
        yield f"seeds must be different numbers from 0 to 2**32 - 1, at least one; got {list(cfg.seeds)}"
    if cfg.mesh.data < 1 and cfg.mesh.data != -1:
        yield f"mesh.data must be at least 1, or -1 for the devices that are left; got {cfg.mesh.data}"


def _whole(cfg: Experiment) -> Iterator[str]:
    if not cfg.name or not cfg.model:
        yield "name and model must not be empty"
    if cfg.data_dir and not Path(cfg.data_dir).is_dir():
        yield f"data_dir is {cfg.data_dir!r}, which is not a directory"
    if (cfg.model.endswith(".gguf") or cfg.model.startswith((".", "/"))) and not Path(cfg.model).exists():
        yield f"model is {cfg.model!r}, and there is no such file or directory"
    objective, sampling, plain = cfg.objective, cfg.sampling, not cfg.template.chat
    if objective.targets == "sampled" and objective.kind not in ("forward_kl", "cross_entropy"):
        yield f"objective.targets='sampled' estimates forward_kl only, not {objective.kind}; use 'top_k' or 'full'"
    if sampling.per_input > 1 and sampling.temperature == 0:
        yield f"sampling.per_input={sampling.per_input} greedy samples are all the same; raise sampling.temperature"
    if plain and ("{input}" not in cfg.template.question or "{output}" not in cfg.template.answer):
        yield "template.question must contain {input} and template.answer {output}"
    if plain and not cfg.template.stop:
        yield "template.stop is empty: no answer would ever end"


def _update(cfg: Experiment) -> Iterator[str]:
    update, baseline, mesh = cfg.update, cfg.score.baseline, cfg.mesh
    parts = (
        update.micro_batches * max(1, mesh.data) * mesh.fsdp
    )  # with data=-1 devices are counted when there is a mesh
    if update.batch < parts:
        yield (
            f"update.batch={update.batch} cannot be cut into {parts} parts of one pair or more "
            "(update.micro_batches times mesh.data times mesh.fsdp)"
        )
    for name, grid, epochs in (("score.baseline", baseline, baseline.epochs), ("tune", cfg.tune, update.epochs)):
        if any(lr <= 0 for lr in grid.lrs):
            yield f"{name}.lrs must be more than 0, got {list(grid.lrs)}"
        if grid.lrs and not cfg.score.validation:
            yield f"{name} needs score.validation examples to choose its learning rate on"
        if grid.lrs and grid.every > epochs:
            yield f"{name}.every={grid.every} is more than the epochs, {epochs}: it is never scored"
    if cfg.tune.lrs and update.checkpoint_every:
        yield "update.checkpoint_every is for one learning rate: an update over tune.lrs starts again if it is stopped"


def _plan(cfg: Experiment) -> Iterator[str]:
    plan, names = cfg.plan, [operation.name for operation in cfg.operations()]
    if not 0 <= plan.ema < 1 or (plan.ema and plan.order != "recursive"):
        yield f"plan.ema={plan.ema:g} must be at least 0 and less than 1, and is for plan.order='recursive'"
    if plan.rounds and plan.order == "simultaneous":
        yield "plan.rounds follow one another: plan.order must be 'sequential' or 'recursive'"
    if plan.rounds and len(set(names)) < len(names):
        yield f"plan.rounds tell operations by their names, and these are not all different: {', '.join(names)}"
    for number, group in enumerate(plan.rounds):
        if not group or len(set(group)) < len(group) or not set(group) <= set(names):
            yield f"plan.rounds.{number}={list(group)} must be different names out of {', '.join(names)}"
    if plan.rounds and (unused := [name for name in names if name not in sum(plan.rounds, ())]):
        yield f"plan.rounds leave out {', '.join(unused)}"
    if plan.rounds and cfg.score.baseline.lrs:
        yield "score.baseline fits all operations at once; leave it out where plan.rounds group them"
    if cfg.score.wrong_association:
        yield from _association(cfg)


def _association(cfg: Experiment) -> Iterator[str]:
    every = cfg.operations()
    for group in [tuple(one for one in every if one.name in group) for group in cfg.plan.rounds] or [every]:
        views = len({operation.student for operation in group})
        if len(group) < 2 or views < len(group):
            names = ", ".join(operation.name for operation in group)
            yield (
                "score.wrong_association asks one operation's inputs under another's student view: it needs two "
                f"operations or more a round, no two with the same view; {names}: {len(group)} with {views}"
            )


def _supervised(cfg: Experiment) -> Iterator[str]:
    baselines = cfg.score.supervised
    names = [one.name for one in baselines]
    if not all(names) or len(set(names)) < len(names) or SCORED & set(names):
        yield f"score.supervised needs different names, none of them {', '.join(sorted(SCORED))}; got {names}"
    if cfg.teacher.start == "teacher":
        yield "teacher.start='teacher' has no meaning: the teacher is made out of the model"
    at = {"teacher": cfg.teacher} | {f"score.supervised.{number}": one for number, one in enumerate(baselines)}
    for path, one in at.items():
        if path != "teacher" and not one.examples:
            yield f"{path}.examples is empty: there is nothing to fine-tune on"
        if one.optim.lr <= 0 or min(one.update.epochs, one.update.batch, one.update.micro_batches) < 1:
            yield f"{path} must have an optim.lr of more than 0, and epochs, batch and micro_batches of at least 1"
        yield from _labelled(f"{path}.examples", one.examples)
    yield from _labelled("replay", cfg.replay)
    if cfg.replay and (cfg.objective.reads_teacher or cfg.objective.kind not in ("forward_kl", "cross_entropy")):
        yield (
            "replay has written answers, not a teacher's distribution: objective.kind must be forward_kl or "
            "cross_entropy, and objective.targets 'top_k' or 'sampled'"
        )


def _labelled(path: str, examples: tuple[Labelled, ...]) -> Iterator[str]:
    for number, shown in enumerate(examples):
        where = f"{path}.{number}"
        if not shown.task or (shown.count < 1) != bool(shown.demonstrations):
            yield (
                f"{where} must have a task, and a count of at least 1 or demonstrations; got {shown.task!r}, "
                f"{shown.count} and {len(shown.demonstrations)}"
            )
        yield from (f"{where}.view.{problem}" for problem in _context(shown.view, shown.task))


def _ensembles(cfg: Experiment) -> Iterator[str]:
    if not any(operation.context.ensemble for operation in cfg.operations()):
        return
    several = "reads the teacher under one prompt, and context.ensemble asks for several"
    if cfg.sampling.draft:
        yield f"sampling.draft={cfg.sampling.draft} {several}; set it to 0"
    if cfg.objective.reads_teacher:
        yield f"objective.targets='full' {several}; use 'top_k' or 'sampled', which are recorded when it answers"
    if cfg.score.held_out:
        yield f"score.held_out={cfg.score.held_out} {several}; set it to 0"


def _operation(operation: Operation, sampling: Sampling) -> Iterator[str]:
    inputs, keep = operation.inputs, operation.keep
    yield from (f"inputs.{problem}" for problem in _inputs(inputs, operation.task))
    for name, context in (("context", operation.context), ("student", operation.student)):
        yield from (f"{name}.{problem}" for problem in _context(context, operation.task, teacher=name == "context"))
    if (keep.span == "all") == bool(keep.pattern):
        yield f"keep.span={keep.span!r} {'takes no' if keep.pattern else 'needs a'} keep.pattern"
    if keep.span == "regex" and (error := _regex_error(keep.pattern)):
        yield f"keep.pattern={keep.pattern!r} is not a regular expression: {error}"
    if "correct" in keep.filters and not operation.task:
        yield "keep.filters has 'correct', which needs a task that grades answers"
    if keep.majority and sampling.per_input < 2:
        yield "keep.majority needs several answers an input; raise sampling.per_input"


def _inputs(inputs: Inputs, task: str) -> Iterator[str]:
    if inputs.file and not Path(inputs.file).is_file():
        yield f"file is {inputs.file!r}, which does not exist"
    elif inputs.file and not Path(inputs.file).read_text(encoding="utf-8", errors="replace").strip():
        yield f"file is {inputs.file!r}, which is empty"
    if not task and not inputs.file:
        yield "file is needed where there is no task"
    if not (inputs.pool or inputs.tasks or inputs.file or inputs.rule or inputs.written):
        yield "pool, inputs.tasks, file, rule and written are all off: choose where the inputs come from"
    if task in inputs.tasks or "" in inputs.tasks or len(set(inputs.tasks)) < len(inputs.tasks):
        yield f"tasks={list(inputs.tasks)} must be different names of other tasks; inputs.pool is {task!r}'s own"
    for name in ("rule", "written", "limit"):
        if getattr(inputs, name) < 0:
            yield f"{name} must be at least 0, got {getattr(inputs, name)}"
    for name in ("written_shots", "written_tokens"):
        if inputs.written and getattr(inputs, name) < 1:
            yield f"{name} must be at least 1, got {getattr(inputs, name)}"


def _context(context: Context, task: str, *, teacher: bool = False) -> Iterator[str]:
    if context.file and not Path(context.file).is_file():
        yield f"file is {context.file!r}, which does not exist"
    if context.file and context.instruction:
        yield "file stands in the instruction's place: give one of the two"
    for name in ("shots", "negative_shots"):
        if (count := getattr(context, name)) < 0 or (count and not task):
            kind = name.replace("shots", "demonstrations").replace("_", " ")
            yield f"{name}={count} must be a number of the task's own {kind}, and task is {task!r}"
    if context.skip < 0:
        yield f"skip must be at least 0, got {context.skip}"
    if context.ensemble and not teacher:
        yield f"ensemble={context.ensemble}: only what a teacher reads is averaged over prompts"
    shown = len(context.demonstrations) + context.shots
    least, most = (1, shown) if context.ensemble else (0, 0)
    if context.ensemble < 0 or not least <= context.drawn <= most:
        yield (
            f"ensemble={context.ensemble} prompts with drawn={context.drawn} of {shown} demonstrations each: "
            "an ensemble draws at least one and at most all, and nothing is drawn without one"
        )
    if DEFINITION in context.instruction and not task:
        yield f"instruction has {DEFINITION}, which is a task's, and task is ''"


def _regex_error(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return ""
