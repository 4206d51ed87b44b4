"""KL(student before || student after) on text that is unrelated to any task."""

import dataclasses
import importlib.resources
from typing import TYPE_CHECKING, Any, ClassVar

from cdjax.parts import at_least

if TYPE_CHECKING:
    from cdjax.score.distance import Texts
    from cdjax.score.exam import Subject

TOKENS = 24  # of each continuation


@dataclasses.dataclass(frozen=True)
class Forgetting:
    """KL in nats a token, over the whole vocabulary, on greedy continuations of plain sentences by `Subject.before`."""

    kind: ClassVar[str] = "forgetting"
    title: ClassVar[str] = "Forgetting: KL(before || after) on unrelated text"
    after_training: ClassVar[bool] = True
    prompts: int = at_least(1, 16)

    def __call__(self, subject: "Subject") -> dict[str, Any]:
        from cdjax.score import distance

        texts = [self.texts(subject)]
        mean = distance.divergence(subject.before, subject.student, texts, subject.exam.mesh, subject.batch)
        return {"mean": mean, "unit": "nats a token"}

    def texts(self, subject: "Subject") -> "Texts":
        """The continuations, which both sides read without a context."""
        import numpy as np

        from cdjax.lessons import pairs
        from cdjax.sampling.store import Store
        from cdjax.tasks.task import Task
        from cdjax.views.context import Context, Template
        from cdjax.views.prompts import Prompts
        from cdjax.views.view import Format, View

        path = importlib.resources.files("cdjax.tasks") / "data" / "unrelated.txt"
        lines, no_ids = path.read_text("utf-8").splitlines()[: self.prompts], np.zeros(0, np.int32)
        tokenizer = subject.exam.assignments[0].views.student.format.tokenizer
        format = Format(tokenizer, Template(question="{input}"), no_ids)
        task = Task(name="text", metric="none", grade=lambda example, answer: 0.0)
        whole = View(format, Context(), task, budget=2**31).prompts(lines)[0].whole
        exam = dataclasses.replace(subject.exam, steps=TOKENS)
        prompts = Prompts(tuple(lines), no_ids, whole)
        store = Store(subject.answers / "unrelated")
        rollouts = exam.greedy(subject.before, prompts, no_ids, title="unrelated text", store=store)
        continued = zip(whole, rollouts, strict=True)
        return no_ids, [pairs.hard(prompt, prompt, rollout.ids) for prompt, rollout in continued]
