"""Answers of an earlier run: what its models wrote once is learned again, with what the teacher says of it now."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cdjax.errors import UserError
from cdjax.lessons.sources.source import Source
from cdjax.parts import at_least

if TYPE_CHECKING:
    from cdjax.lessons.request import Request
    from cdjax.sampling.store import Rollout

WRITERS = ("", "teacher", "student")  # folders of an operation: of all that a model wrote, or of one side's share


@dataclasses.dataclass(frozen=True)
class FromRollouts(Source):
    """The answers of a round of a run with the same tokenizer, to the operation of the same number.

    Their targets are the teacher's of this run, read anew; an answer to an input that is not asked does not count.
    """

    kind: ClassVar[str] = "rollouts"
    run: str = ""  # its directory
    seed: int = at_least(0, 0)
    round: int = at_least(0, 0)

    def problems(self) -> Iterator[str]:
        """No such run, or no answers in it."""
        if not self.files():
            yield f"run={self.run!r} must be the directory of a run with answers of a model in {self._folder()}"

    def files(self) -> list[str]:
        """The shards of all operations and segments."""
        return sorted(str(path) for path in self._folder().rglob("*.npz") if path.parent.name != "bare")

    def answers(self, request: "Request") -> "list[Rollout]":
        """Raises UserError for answers to other inputs, and for tokens that the student does not have."""
        from cdjax.sampling.store import Store

        order = {text: number for number, text in enumerate(request.shown.student.inputs)}
        places = (folder / writer for folder in self._operations(request.operation) for writer in WRITERS)
        stores = [(Store(place), sorted(place.glob("*.npz"))) for place in places]
        written = [rollout for store, shards in stores for shard in shards for rollout in store.read(int(shard.stem))]
        rollouts = [rollout for rollout in written if rollout.input in order]
        rollouts.sort(key=lambda rollout: (order[rollout.input], rollout.sample))
        if not rollouts:
            raise UserError(f"{self._folder()} has {len(written)} answers, and none to the {len(order)} inputs asked")
        highest, vocab = (
            max(int(rollout.ids.max()) for rollout in rollouts),
            len(request.views.student.format.tokenizer),
        )
        if highest >= vocab:
            raise UserError(f"{self._folder()} has token {highest}, and the student's tokenizer ends at {vocab - 1}")
        return request.reread([dataclasses.replace(rollout, targets={}) for rollout in rollouts])

    def _folder(self) -> Path:
        return Path(self.run) / "rollouts" / f"seed_{self.seed}" / f"round_{self.round}"

    def _operations(self, number: int) -> list[Path]:
        """The operation's folder of every segment."""
        return sorted(self._folder().rglob(f"operation_{number}"))
