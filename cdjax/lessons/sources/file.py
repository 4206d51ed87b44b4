"""Answers out of the user's own file: whatever somebody, or another model, wrote to the inputs."""

import dataclasses
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
    """Every "output" that the JSON lines of `file` have to an input, with the teacher's targets of it.

    A file may have several lines to one input; those to inputs that are not asked do not count.
    """

    kind: ClassVar[str] = "file"
    file: str = ""

    def problems(self) -> Iterator[str]:
        """No file."""
        if not Path(self.file).is_file():
            yield f"file must be JSON lines with an input and an output, and {self.file!r} is no file"

    def answers(self, request: "Request") -> "list[Rollout]":
        """Raises UserError for a file that answers none of the inputs."""
        lines = files.read(self.file)
        answered = [Demonstration(line.input, line.output) for line in lines if line.output]
        if not {example.input for example in answered} & set(request.shown.student.inputs):
            raise UserError(
                f"{self.file} has an answer to {len(answered)} inputs, and to none of the "
                f"{len(request.shown.student.inputs)} that are asked, such as {request.shown.student.inputs[0]!r}"
            )
        return request.written(answered)
