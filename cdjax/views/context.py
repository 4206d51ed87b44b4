"""What a view shows around a task input, and how it becomes text."""

from collections.abc import Iterator
from dataclasses import dataclass

from cdjax.tasks.task import Demonstration
from cdjax.views.select import Selector
from cdjax.views.select.first import First

DEFINITION = "{definition}"  # in an instruction, what the task is


@dataclass(frozen=True)
class Context:
    """What a view shows around the task input. All parts are optional; the empty context is the bare input.

    A teacher with an `ensemble` reads several prompts at once, each with other demonstrations. Every token of its
    answer is chosen by the mean of their probabilities, and that mean is the token's target: sample and target are of
    one distribution. (The paper samples an answer under one prompt, and averages the targets alone.)
    """

    instruction: str = ""  # {definition} in it stands for the task's own
    file: str = ""  # a text file that stands in the instruction's place, as it is
    demonstrations: tuple[Demonstration, ...] = ()  # written out here; all are shown where nothing is selected
    shots: int = 0  # number of demonstrations that are selected for a row, ...
    select: Selector = (
        First()
    )  # ... out of those written out and the task's; First adds some of the task's to the others
    ensemble: int = 0  # the teacher alone: so many prompts instead of one, ...
    drawn: int = 0  # ... each with so many of these demonstrations, drawn at random, the same in every run
    negatives: tuple[Demonstration, ...] = ()  # answers not to give, after the demonstrations, and then ...
    negative_shots: int = 0  # ... the first so many of the task's own
    explanations: bool = False  # show each demonstration's explanation, negative ones' too
    request: str = ""  # after the input, as "Let's think step by step."

    @property
    def per_row(self) -> bool:
        """Whether every row has demonstrations of its own."""
        return bool(self.shots) and not isinstance(self.select, First)

    def problems(self) -> Iterator[str]:
        if self.select != First() and not self.shots:
            yield f"select={self.select} is for shots, of which there are {self.shots}"
        if self.ensemble and self.per_row:
            yield f"ensemble={self.ensemble} draws demonstrations for its prompts itself: select must be 'first'"


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
