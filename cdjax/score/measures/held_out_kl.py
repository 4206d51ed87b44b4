"""KL(teacher || student), each under its view, on the teacher's answers to inputs that are never distilled on."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from cdjax.parts import at_least

if TYPE_CHECKING:
    from cdjax.score.distance import Texts
    from cdjax.score.exam import Subject


@dataclasses.dataclass(frozen=True)
class HeldOutKL:
    """KL in nats a token, over the whole vocabulary, on greedy answers of the first round's teacher, cut by f."""

    kind: ClassVar[str] = "held_out_kl"
    title: ClassVar[str] = "Held-out KL to the teacher"
    needs: ClassVar[frozenset[str]] = frozenset({"one prompt", "one vocabulary"})
    inputs: int = at_least(1, 32)  # of each operation

    def __call__(self, subject: "Subject") -> dict[str, Any]:
        from cdjax.score import distance

        exam = subject.exam
        mean = distance.divergence(subject.teacher, subject.student, self.texts(subject), exam.mesh, subject.batch)
        return {"mean": mean, "unit": "nats a token"}

    def texts(self, subject: "Subject") -> "Iterator[Texts]":
        """Yields for each operation the teacher's context, and pairs of its answers to held-out inputs."""
        from cdjax.lessons import keep, pairs
        from cdjax.lessons.filters import Evidence
        from cdjax.sampling.store import Store

        for number in subject.operations:
            assignment = subject.exam.assignments[number]
            inputs = assignment.task.held_out[: self.inputs]
            if not inputs:
                continue
            prompts, format = assignment.views.prompts(inputs), assignment.views.teacher.format
            store = Store(subject.answers / "held_out" / f"operation_{number}")
            rollouts = subject.exam.greedy(
                subject.teacher, prompts.teacher, format.stops, title="held-out answers", store=store
            )
            f = dataclasses.replace(assignment.keep, filters=())
            kept, _ = keep.keep(rollouts, format, f, Evidence(assignment.task))
            budget = subject.exam.steps
            examples = pairs.pair(kept, prompts.teacher, prompts.student, completion_budget=budget)
            yield prompts.teacher.context, examples
