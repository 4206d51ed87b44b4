"""The probabilities of a few chosen tokens, such as the label words of a classifier."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int

from cdjax.errors import UserError
from cdjax.parts import above
from cdjax.sampling.targets.target import Recorded, Target


@dataclass(frozen=True)
class Restricted(Target):
    """The distribution over `ids` and the tail, one more outcome for all other ids.

    With `tail=False` both sides are renormalised over the ids, as the label words of a verbaliser are (GPT3Mix, arXiv
    2104.08826).
    """

    kind: ClassVar[str] = "restricted"
    gives: ClassVar[frozenset[str]] = frozenset({"probabilities"})
    ids: tuple[int, ...] = ()
    tail: bool = True
    temperature: float = above(0, 1.0)

    def problems(self) -> Iterator[str]:
        """Refuses duplicate, negative and too few ids."""
        least = 1 if self.tail else 2
        if len(set(self.ids)) < len(self.ids) or len(self.ids) < least or min(self.ids) < 0:
            yield f"ids must be different token ids, {least} or more with tail={self.tail}; got {list(self.ids)}"

    def buffers(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """The ids' `logprobs` under the full softmax."""
        return {"logprobs": ((len(self.ids),), "float32")}

    def observe(self, logits: Float[Any, "B V"], ids: Int[Any, "B"], uniforms: Float[Any, "B u"]) -> Recorded:
        from cdjax.sampling import choose

        return {"logprobs": choose.logprobs(logits, self._rows(len(logits)), self.temperature)}

    def certain(self, ids: Int[Any, "C"], vocab: int) -> Recorded:
        import numpy as np

        matches = ids[:, None] == np.array(self.ids, np.int32)
        if not self.tail and not matches.any(1).all():
            other = int(ids[~matches.any(1)][0])
            raise UserError(f"targets.ids={list(self.ids)} without a tail have no place for written token {other}")
        return {"logprobs": np.where(matches, np.float32(0), np.float32(-np.inf))}

    def misfits(self, vocab: int) -> Iterator[str]:
        if self.ids and max(self.ids) >= vocab:
            yield f"ids has {max(self.ids)}, and the vocabulary ends at {vocab - 1}"

    def listed(self, recorded: Recorded) -> Int[Any, "n k"]:
        return self._rows(len(recorded["logprobs"]))

    def outcomes(self, recorded: Recorded, student: Float[Any, "n k"]) -> tuple[Float[Any, "n o"], Float[Any, "n o"]]:
        import jax

        from cdjax.sampling import choose

        normalise = choose.with_tail if self.tail else jax.nn.log_softmax
        return normalise(recorded["logprobs"]), normalise(student)

    def metrics(self, recorded: Recorded, student: Float[Any, "n k"]) -> dict[str, Float[Any, "n"]]:
        """The probability mass of the ids under the teacher and under the student."""
        import jax.numpy as jnp

        masses = {"teacher_listed_mass": recorded["logprobs"], "student_listed_mass": student}
        return {name: jnp.exp(logprobs).sum(-1) for name, logprobs in masses.items()}

    def _rows(self, count: int) -> Int[Any, "n k"]:
        import jax.numpy as jnp

        return jnp.broadcast_to(jnp.array(self.ids, jnp.int32), (count, len(self.ids)))
