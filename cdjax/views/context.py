"""A view's context, shown around every task input, and the template that makes text of both, as data."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cdjax.parts import at_least
from cdjax.tasks.task import Demonstration
from cdjax.views.select import Selector
from cdjax.views.select.first import First

DEFINITION = "{definition}"  # stands in an instruction for the task's definition


@dataclass(frozen=True)
class Context:
    """The text that a view shows around a task input. All fields are optional; the empty context is the bare input.

    A teacher with an `ensemble` reads several prompts at once, each with other demonstrations. The tokens of its answer
    are sampled from the mean of the prompts' probabilities, and that mean is a token's target: sample and target are of
    the same distribution. (The paper samples an answer under a single prompt, and averages the targets alone.)
    """

    instruction: str = ""  # {definition} in it stands for the task's definition
    file: str = ""  # a text file, whose unchanged text takes the instruction's place
    demonstrations: tuple[Demonstration, ...] = ()  # written out in the experiment; without a selector all are shown
    shots: int = at_least(0, 0)  # number of demonstrations that `select` chooses for a row
    select: Selector = First()  # First adds the task's first to `demonstrations`; others choose among both
    ensemble: int = at_least(0, 0)  # number of prompts of a teacher; 0: a single prompt, without drawing
    drawn: int = at_least(0, 0)  # number of demonstrations drawn at random for each prompt, the same in every run
    negatives: tuple[Demonstration, ...] = ()  # answers not to give, shown after the demonstrations
    negative_shots: int = at_least(0, 0)  # number of the task's answers not to give, shown after `negatives`
    explanations: bool = False  # show the explanations of demonstrations and negatives
    request: str = ""  # after the input, such as "Let's think step by step."

    @property
    def per_row(self) -> bool:
        """Whether rows differ in their demonstrations."""
        return bool(self.shots) and not isinstance(self.select, First)

    def problems(self) -> Iterator[str]:
        """A selector without shots, a missing file, an ensemble without demonstrations to draw."""
        if self.file and not Path(self.file).is_file():
            yield f"file is {self.file!r}, which does not exist"
        if self.file and self.instruction:
            yield "file stands in the instruction's place: give one of the two"
        if self.select != First() and not self.shots:
            yield f"select={self.select} is for shots, of which there are {self.shots}"
        if self.ensemble and self.per_row:
            yield f"ensemble={self.ensemble} draws demonstrations for its prompts itself: select must be 'first'"
        shown = len(self.demonstrations) + self.shots
        least, most = (1, shown) if self.ensemble else (0, 0)
        if not least <= self.drawn <= most:
            yield (
                f"ensemble={self.ensemble} prompts with drawn={self.drawn} of {shown} demonstrations each: "
                "an ensemble draws at least one and at most all, and nothing is drawn without one"
            )

    def misfits(self, task: str, *, teacher: bool = False) -> Iterator[str]:
        """Yields a sentence for each field that needs a task, if there is none, or that only a teacher may have."""
        written = self.per_row and self.demonstrations
        for name, shots in (("shots", 0 if written else self.shots), ("negative_shots", self.negative_shots)):
            if shots and not task:
                kind = name.replace("shots", "demonstrations").replace("_", " ")
                yield f"{name}={shots} must be a number of the task's own {kind}, and task is {task!r}"
        if self.ensemble and not teacher:
            yield f"ensemble={self.ensemble}: only what a teacher reads is averaged over prompts"
        if DEFINITION in self.instruction and not task:
            yield f"instruction has {DEFINITION}, which is a task's, and task is ''"


@dataclass(frozen=True)
class Template:
    """How a view is rendered: by the tokenizer's chat template, or as plain text."""

    chat: bool = False
    system: str = "{instruction}\n\n"  # plain text only
    positive: str = ""  # before each demonstration, such as "Positive Example {number} -\n"
    negative: str = (
        "Negative Example {number} -\n"  # before each answer not to give; in a chat they follow the instruction
    )
    ask: str = ""  # before the input, such as "Now complete the following example -\n"
    question: str = "{input}\n"
    answer: str = "{output}\n"
    explanation: str = "Explanation: {explanation}\n"
    stop: str = "\n"  # plain text only: an answer ends with the token that contains this

    def problems(self) -> Iterator[str]:
        """Plain text without the input, without the answer, or without an end."""
        if self.chat:
            return
        if "{input}" not in self.question:
            yield f"question must contain {{input}}, got {self.question!r}"
        if "{output}" not in self.answer:
            yield f"answer must contain {{output}}, got {self.answer!r}"
        if not self.stop:
            yield "stop is empty: no answer would ever end"
