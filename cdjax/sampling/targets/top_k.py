"""The most likely tokens of every position."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int

from cdjax.parts import above, at_least
from cdjax.sampling.targets.target import Recorded, Target


@dataclass(frozen=True)
class TopK(Target):
    """The `k` most likely ids and the tail, one more outcome for all other ids."""

    kind: ClassVar[str] = "top_k"
    gives: ClassVar[frozenset[str]] = frozenset({"probabilities"})
    k: int = at_least(1, 32)
    temperature: float = above(0, 1.0)

    def buffers(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """`ids`, most likely first, and their `logprobs` under the full softmax."""
        return {"ids": ((self.k,), "int32"), "logprobs": ((self.k,), "float32")}

    def observe(self, logits: Float[Any, "B V"], ids: Int[Any, "B"], uniforms: Float[Any, "B u"]) -> Recorded:
        from cdjax.sampling import choose

        _, top = choose.largest(logits, self.k)
        return {"ids": top, "logprobs": choose.logprobs(logits, top, self.temperature)}

    def certain(self, ids: Int[Any, "C"], vocab: int) -> Recorded:
        import numpy as np

        offsets = np.arange(self.k, dtype=np.int32)[None]
        logprobs = np.where(offsets == 0, np.float32(0), np.float32(-np.inf)) + np.zeros((len(ids), 1), np.float32)
        return {"ids": (ids[:, None] + offsets) % vocab, "logprobs": logprobs}  # any k - 1 other ids, all different

    def misfits(self, vocab: int) -> Iterator[str]:
        if self.k > vocab:
            yield f"k={self.k} is over the vocabulary, {vocab}"

    def listed(self, recorded: Recorded) -> Int[Any, "n k"]:
        return recorded["ids"]

    def outcomes(self, recorded: Recorded, student: Float[Any, "n k"]) -> tuple[Float[Any, "n o"], Float[Any, "n o"]]:
        from cdjax.sampling import choose

        return choose.with_tail(recorded["logprobs"]), choose.with_tail(student)

    def metrics(self, recorded: Recorded, student: Float[Any, "n k"]) -> dict[str, Float[Any, "n"]]:
        """The probability mass of the k ids under the teacher and under the student."""
        import jax.numpy as jnp

        masses = {"teacher_top_mass": recorded["logprobs"], "student_top_mass": student}
        return {name: jnp.exp(logprobs).sum(-1) for name, logprobs in masses.items()}
