"""Skewed KL: the teacher against a mixture with itself, so that a student far from it has no large gradient."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float

from cdjax.losses.loss import Divergence
from cdjax.parts import at_least, between


@dataclass(frozen=True)
class SkewedKL(Divergence):
    """KL(p || m) with m = skew p + (1 - skew) q (DistiLLM, arXiv 2402.03898); with `reverse`, q and p change places.

    At skew 0 it is forward KL, or reverse KL. It is at most -log(skew).
    """

    kind: ClassVar[str] = "skewed_kl"
    skew: float = between(0, 1, 0.1)  # less than 1
    reverse: bool = False
    weight: float = at_least(0, 1.0)

    def problems(self) -> Iterator[str]:
        """A mixture that is the first side itself: there is nothing to learn."""
        if self.skew == 1:
            yield "skew=1 compares a distribution with itself"

    def pointwise(self, p: Float[Any, "*b"], q: Float[Any, "*b"]) -> Float[Any, "*b"]:
        import jax.numpy as jnp

        from cdjax.losses.divergence import expected

        one, other = (q, p) if self.reverse else (p, q)
        if self.skew == 0:
            return expected(one, one - other)
        return expected(one, one - jnp.logaddexp(one + math.log(self.skew), other + math.log1p(-self.skew)))
