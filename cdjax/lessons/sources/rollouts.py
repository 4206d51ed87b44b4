"""Answers from an earlier run, with targets of this run's teacher."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cdjax.errors import UserError
from cdjax.lessons.sources.source import Source
from cdjax.parts import at_least

if TYPE_CHECKING:
    from cdjax.lessons.request import Request
    from cdjax.sampling.store import Rollout

WRITERS = ("", "teacher", "student")  # an operation's folders: "" of a single writer, the others of a mixture


@dataclasses.dataclass(frozen=True)
class FromRollouts(Source):
    """The answers of a round of an earlier run with the same tokenizer, to the operation of the same number.

    This run's teacher reads them for its targets; answers to inputs that are not asked do not count.
    """

    kind: ClassVar[str] = "rollouts"
    run: str = ""  # its directory
    seed: int = at_least(0, 0)
    round: int = at_least(0, 0)

    def problems(self) -> Iterator[str]:
        """A run that does not exist, or that has no answers."""
        if not self.files():
            yield f"run={self.run!r} must be the directory of a run with answers of a model in {self._folder()}"

    def files(self) -> list[str]:
        """The shards of all operations, sources and segments."""
        return [str(path) for path in self._shards("operation_*")]

    def most(self, per_input: int) -> int:
        counts = Counter(
            (path.parent, rollout.input) for path in self._shards("operation_*") for rollout in _read(path)
        )
        return max(counts.values(), default=0)

    def answers(self, request: "Request") -> "list[Rollout]":
        """Raises UserError for answers to other inputs, and for tokens that the student does not have."""
        written = [rollout for path in self._shards(f"operation_{request.operation}") for rollout in _read(path)]
        to_input: dict[str, list[Rollout]] = defaultdict(list)
        for rollout in sorted(written, key=lambda rollout: rollout.sample):
            to_input[rollout.input].append(rollout)
        inputs = request.shown.student.inputs
        rollouts = [rollout for text in inputs for rollout in to_input[text]]
        if not rollouts and request.whole:
            raise UserError(f"{self._folder()} has {len(written)} answers, and none to the {len(inputs)} inputs asked")
        if not rollouts:
            return []
        highest, vocab = (
            max(int(rollout.ids.max()) for rollout in rollouts),
            len(request.views.student.format.tokenizer),
        )
        if highest >= vocab:
            raise UserError(f"{self._folder()} has token {highest}, and the student's tokenizer ends at {vocab - 1}")
        return request.reread([dataclasses.replace(rollout, targets={}) for rollout in rollouts])

    def _folder(self) -> Path:
        return Path(self.run) / "rollouts" / f"seed_{self.seed}" / f"round_{self.round}"

    def _shards(self, operations: str) -> list[Path]:
        """The files of answers to these operations, by all sources, in every segment."""
        folders = [
            folder
            for operation in self._folder().rglob(operations)
            for folder in (operation, *operation.glob("source_*"))
        ]
        return sorted(path for folder in folders for writer in WRITERS for path in (folder / writer).glob("*.npz"))


def _read(path: Path) -> "list[Rollout]":
    from cdjax.sampling.store import Store

    return Store(path.parent).read(int(path.stem))
