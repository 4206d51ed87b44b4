"""The training of a student, a baseline or a teacher, as data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from cdjax.learn import Optim
from cdjax.lessons import Update
from cdjax.lessons.sources import Source
from cdjax.lessons.sources.teacher import FromTeacher
from cdjax.losses import Loss, reads_teacher, unmet
from cdjax.losses.cross_entropy import CrossEntropy
from cdjax.losses.forward_kl import ForwardKL
from cdjax.parts import above, at_least
from cdjax.sampling import Sampling
from cdjax.sampling.targets import Targets
from cdjax.sampling.targets.labels import Labels
from cdjax.sampling.targets.top_k import TopK


@dataclass(frozen=True)
class Tune:
    """The search for a learning rate and a number of epochs on labelled validation examples."""

    lrs: tuple[float, ...] = above(0, ())  # empty: no search; optim.lr and all epochs
    every: int = at_least(1, 1)  # epochs between scores


@dataclass(frozen=True)
class Training:
    """The sources of answers, the teacher's targets for them, and how updates learn from both."""

    sources: tuple[Source, ...] = (FromTeacher(),)  # the answers of all of them are learned together
    sampling: Sampling = Sampling()
    targets: Targets = TopK()
    losses: tuple[Loss, ...] = (ForwardKL(),)  # their weighted sum is minimised
    optim: Optim = Optim()
    update: Update = Update()
    tune: Tune = Tune()
    start: Literal["model", "teacher"] = "model"  # the weights it starts from; they differ for a trained first teacher

    @property
    def asks(self) -> tuple[Any, ...]:
        """The sources that answer inputs of operations."""
        return tuple(source for source in self.sources if not source.own_inputs)

    @property
    def shows(self) -> tuple[Any, ...]:
        """The sources that bring solved examples."""
        return tuple(source for source in self.sources if source.own_inputs)

    @property
    def rereads(self) -> bool:
        """Whether an update reads the answers with the teacher itself."""
        return reads_teacher(self.losses, self.targets)

    def problems(self) -> Iterator[str]:
        """Losses that the targets or the sources do not serve; fields that contradict each other."""
        if not self.sources:
            yield "sources is empty: nobody writes what is learned"
        if not self.losses:
            yield "losses is empty: there is nothing to learn by"
        yield from unmet(self.losses, self.targets)
        yield from self._certain()
        others = [source.kind for source in self.sources if source.writers != {"student"}]
        for number, loss in enumerate(self.losses):
            if loss.on_policy and others:
                yield (
                    f"losses.{number}: {loss.kind} is for tokens that the student wrote, and sources are "
                    f"{', '.join(others)}; use sources=student"
                )
        if any(source.writers != {"teacher"} for source in self.asks):
            for name, value, usual in (("draft", self.sampling.draft, 0), ("weights", self.sampling.weights, "full")):
                if value != usual:
                    kinds = ", ".join(source.kind for source in self.sources)
                    yield f"sampling.{name}={value} is of a teacher that writes, and sources are {kinds}"
        if self.tune.lrs and self.tune.every > self.update.epochs:
            yield f"tune.every={self.tune.every} is more than the epochs, {self.update.epochs}"
        if self.tune.lrs and self.update.every:
            yield (
                "update.every writes answers anew while the student learns: choose one learning rate, without tune.lrs"
            )
        if self.tune.lrs and self.update.checkpoint_every:
            yield "update.checkpoint_every is for one learning rate: a search over tune.lrs starts again if stopped"
        if self.update.every and not self.asks:
            yield "update.every writes answers anew, and no source writes any: leave it 0"

    def _certain(self) -> Iterator[str]:
        """Yields the losses and targets that solved examples do not serve: their writer's distribution is unknown."""
        for source in self.shows:
            said = f"source {source.kind} has written answers, as if drawn from a distribution that nobody knows"
            if self.rereads:
                yield f"{said}; targets.kind={self.targets.kind!r} reads the teacher, which did not write them"
            for number, loss in enumerate(self.losses):
                if loss.needs and "draws" not in loss.needs:
                    yield f"{said}; losses.{number}: {loss.kind} does not do with draws"


def supervised(*sources: Any, **settings: Any) -> Training:
    """Supervised fine-tuning: cross-entropy on the sources' answers. `settings` are further fields of `Training`."""
    return Training(sources=sources, targets=Labels(), losses=(CrossEntropy(),), **settings)
