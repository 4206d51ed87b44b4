"""pass@k: the probability that at least one of k sampled answers is right (arXiv 2107.03374, equation 1)."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cdjax.parts import above, at_least

if TYPE_CHECKING:
    from cdjax.score.exam import Subject


@dataclasses.dataclass(frozen=True)
class PassAtK:
    """The unbiased estimate of pass@k from `samples` answers to each input; an answer is right if its grade is 1."""

    kind: ClassVar[str] = "pass_at_k"
    title: ClassVar[str] = "pass@k: one of k sampled answers is right"
    k: int = at_least(1, 1)
    samples: int = at_least(1, 8)  # of each input: k or more
    temperature: float = above(0, 0.8)
    examples: int = at_least(1, 32)  # test examples of each operation

    def problems(self) -> Iterator[str]:
        """Refuses k above the number of samples."""
        if self.samples < self.k:
            yield f"samples={self.samples} must be at least k={self.k}"

    def __call__(self, subject: "Subject") -> dict[str, Any]:
        grades = [grade for operation in subject.operations for grade in self.of(subject, operation)]
        return {"mean": float(np.mean(grades)) if grades else None, "unit": f"pass@{self.k}", "grades": grades}

    def of(self, subject: "Subject", operation: int) -> list[float]:
        """pass@k of each of the operation's test examples whose prompt fits."""
        from cdjax.sampling import Sampling, answers
        from cdjax.sampling.targets.labels import Labels

        exam, assignment = subject.exam, subject.exam.assignments[operation]
        examples = {example.input: example for example in subject.expected[operation][: self.examples]}
        view, prompts = assignment.views.student, assignment.views.prompts(list(examples))
        rollouts = answers.sample(
            subject.student,
            exam.mesh,
            prompts.student,
            stops=view.format.stops,
            sampling=Sampling(temperature=self.temperature, per_input=self.samples, batch=exam.batch),
            targets=Labels(),
            steps=exam.steps,
            seed=0,
        )
        right: dict[str, list[bool]] = defaultdict(list)
        for rollout in rollouts:
            grade = assignment.task.grade(examples[rollout.input], view.format.text(rollout.ids))
            right[rollout.input].append(grade == 1)
        return [estimate(of_input, self.k) for of_input in right.values()]


def estimate(right: Sequence[bool], k: int) -> float:
    """1 - C(n - c, k) / C(n, k) for n answers of which c are right, by exact integers."""
    wrong = len(right) - sum(right)
    return 1 - math.comb(wrong, k) / math.comb(len(right), k)
