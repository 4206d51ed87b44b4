"""Tokens drawn from the teacher at every position."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int

from cdjax.parts import above, at_least
from cdjax.sampling.targets.target import Recorded, Target


@dataclass(frozen=True)
class Draws(Target):
    """`n` ids drawn independently (the paper, arXiv 2209.15189, draws 100): their mean is unbiased for forward KL."""

    kind: ClassVar[str] = "draws"
    gives: ClassVar[frozenset[str]] = frozenset({"draws"})
    n: int = at_least(1, 100)
    temperature: float = above(0, 1.0)

    @property
    def uniforms(self) -> int:
        return self.n

    def buffers(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """The drawn `ids`."""
        return {"ids": ((self.n,), "int32")}

    def observe(self, logits: Float[Any, "B V"], ids: Int[Any, "B"], uniforms: Float[Any, "B u"]) -> Recorded:
        from cdjax.sampling import choose

        return {"ids": choose.draw(choose.softmax_weights(logits, self.temperature), uniforms)}

    def certain(self, ids: Int[Any, "C"], vocab: int) -> Recorded:
        import numpy as np

        return {"ids": np.repeat(ids[:, None], self.n, 1)}

    def listed(self, recorded: Recorded) -> Int[Any, "n k"]:
        return recorded["ids"]
