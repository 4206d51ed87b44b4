"""Answers from a file of the user, written by people or other models."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cdjax.errors import UserError
from cdjax.lessons.sources.source import Source
from cdjax.tasks import files
from cdjax.tasks.task import Demonstration

if TYPE_CHECKING:
    from cdjax.lessons.request import Request
    from cdjax.sampling.store import Rollout


@dataclasses.dataclass(frozen=True)
class FromFile(Source):
    """Every "output" of the JSON lines of `file` as an answer to the line's "input", with the teacher's targets.

    A file may have several lines of an input; lines of inputs that are not asked do not count.
    """

    kind: ClassVar[str] = "file"
    file: str = ""

    def problems(self) -> Iterator[str]:
        """A file that does not exist."""
        if not Path(self.file).is_file():
            yield f"file must be JSON lines with an input and an output, and {self.file!r} is no file"

    def most(self, per_input: int) -> int:
        return max(Counter(line.input for line in files.read(self.file)).values(), default=0)

    def answers(self, request: "Request") -> "list[Rollout]":
        """The file's answers to inputs of the request. Raises UserError if there are none."""
        lines = files.read(self.file)
        answered = [Demonstration(line.input, line.output) for line in lines if line.output]
        if request.whole and not {example.input for example in answered} & set(request.shown.student.inputs):
            raise UserError(
                f"{self.file} has an answer to {len(answered)} inputs, and to none of the "
                f"{len(request.shown.student.inputs)} that are asked, such as {request.shown.student.inputs[0]!r}"
            )
        return request.written(answered)
