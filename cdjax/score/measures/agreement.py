"""The teacher's acceptance of the student's drafts: 1 - the total variation between the two, token by token."""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cdjax.parts import above, at_least

if TYPE_CHECKING:
    from cdjax.score.exam import Subject


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The acceptance of speculative decoding (arXiv 2211.17192): a draft of q stands with probability sum min(p, q).

    The teacher answers held-out inputs under its view, and the student drafts under the student's view: the share of
    drafted tokens that are accepted estimates 1 - TV(teacher, student) on the teacher's answers.
    """

    kind: ClassVar[str] = "agreement"
    title: ClassVar[str] = "Agreement with the teacher: 1 - total variation"
    needs: ClassVar[frozenset[str]] = frozenset({"one prompt", "one vocabulary"})
    inputs: int = at_least(1, 32)  # of each operation
    draft: int = at_least(1, 1)  # drafted tokens of a step; with 1 every token of the answers is drafted
    temperature: float = above(0, 1.0)

    def __call__(self, subject: "Subject") -> dict[str, Any]:
        from cdjax.sampling import Sampling, answers
        from cdjax.sampling.targets.labels import Labels

        exam, verdicts = subject.exam, []
        for number in subject.operations:
            assignment = exam.assignments[number]
            inputs = assignment.task.held_out[: self.inputs]
            if not inputs:
                continue
            prompts = assignment.views.prompts(inputs)
            rollouts = answers.sample(
                subject.teacher,
                exam.mesh,
                prompts.teacher,
                stops=assignment.views.teacher.format.stops,
                sampling=Sampling(temperature=self.temperature, batch=exam.batch, draft=self.draft),
                targets=Labels(),
                steps=exam.steps,
                seed=0,
                student=answers.Student(subject.student, prompts.student),
            )
            verdicts += [rollout.verdicts for rollout in rollouts]
        drafted = np.concatenate(verdicts) if verdicts else np.zeros(0, np.int32)
        drafted = drafted[drafted != 0]
        return {"mean": float((drafted > 0).mean()) if len(drafted) else None, "unit": "share of drafted tokens"}
