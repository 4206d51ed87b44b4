"""Answers from an earlier run, with targets of this run's teacher."""

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
        """The shards of all operations and segments of the round."""
        return sorted(str(path) for path in self._folder().rglob("*.npz") if path.parent.name != "bare")

    def answers(self, request: "Request") -> "list[Rollout]":
        """The run's answers to inputs of the request, in the order of the inputs.

        Raises UserError if there are none, or an answer has a token that the student does not have.
        """
        from cdjax.sampling.store import Store

        order = {text: number for number, text in enumerate(request.shown.student.inputs)}
        folders = (folder / writer for folder in self._operations(request.operation) for writer in WRITERS)
        stores = [(Store(folder), sorted(folder.glob("*.npz"))) for folder in folders]
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
