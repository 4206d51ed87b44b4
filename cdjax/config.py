"""An experiment as data: what is distilled into what, and how.

In: a Python file from `configs/` with `get_config()`, and `a.b=c` overrides. Out: one frozen `Experiment`.
A field is here only if two experiments differ in it; everything else is an argument default where it is used.
"""

from dataclasses import dataclass
from typing import Literal


class UserError(ValueError):
    """A mistake in what the user gave: says what was given, what was wanted, and what to do."""


@dataclass(frozen=True)
class Demonstration:
    """One solved input, shown in a prompt."""

    input: str
    output: str
    explanation: str = ""


@dataclass(frozen=True)
class Context:
    """What a view shows around the task input. All parts are optional; the empty context is the bare input."""

    instruction: str = ""
    file: str = ""  # a text file that stands in the instruction's place
    demonstrations: tuple[Demonstration, ...] = ()  # written out here, and then ...
    shots: int = 0  # ... the first so many of the task's own demonstrations
    explanations: bool = False  # show each demonstration's explanation
    request: str = ""  # after the input, as "Let's think step by step."


@dataclass(frozen=True)
class Template:
    """How a view becomes text: the tokenizer's chat template, or plain text."""

    chat: bool = False
    system: str = "{instruction}\n\n"  # plain text only
    question: str = "{input}\n"
    answer: str = "{output}\n"
    explanation: str = "Explanation: {explanation}\n"
    stop: str = "\n"  # plain text only: an answer ends with the token that contains this


@dataclass(frozen=True)
class Inputs:
    """D, the task inputs to distil on, in the paper's three ways; those asked for are joined, duplicates removed."""

    pool: bool = False  # the task's own unlabelled inputs
    file: str = ""  # JSONL with an "input" field, or text with one input a line
    rule: int = 0  # so many drawn from the task's rule
    written: int = 0  # so many samples written by the model from a few-shot prompt of inputs
    written_shots: int = 8  # inputs shown in that prompt
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
    """

    order: Literal["simultaneous", "sequential", "recursive"] = "simultaneous"
    operations: tuple[Operation, ...] = ()  # empty: the experiment's own operation alone
    repeat: int = 1  # run the whole list so many times


@dataclass(frozen=True)
class Sampling:
    """How the teacher's answers are drawn."""

    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0 keeps the whole vocabulary
    top_p: float = 1.0
    per_input: int = 1
    batch: int = 64


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
class Limits:
    """Length budgets in tokens; each view has its own."""

    teacher_prompt: int = 1024
    student_prompt: int = 512
    completion: int = 64
    overflow: Literal["error", "drop"] = "error"


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
    validation: int = 64  # examples that choose the baseline's grid point; never test examples
    held_out: int = 32  # inputs for the held-out KL, never distilled on
    forgetting: int = 16  # unrelated prompts
    baseline: GradientDescent = GradientDescent()


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
    plan: Plan = Plan()
    sampling: Sampling = Sampling()
    objective: Objective = Objective()
    adapter: Adapter = Adapter()
    optim: Optim = Optim()
    update: Update = Update()
    limits: Limits = Limits()
    score: Score = Score()
    mesh: Mesh = Mesh()
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "dots", "full"] = "none"
    seeds: tuple[int, ...] = (0,)

    def operations(self) -> tuple[Operation, ...]:
        """The plan's operations, or the experiment's own one."""
        own = Operation(self.name, self.task, self.inputs, self.context, self.student, self.keep)
        return self.plan.operations or (own,)
