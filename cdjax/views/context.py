"""What a view shows around a task input, and how it becomes text."""

from dataclasses import dataclass

from cdjax.tasks.task import Demonstration

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
