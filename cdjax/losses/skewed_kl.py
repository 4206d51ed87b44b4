"""Skewed KL: KL to a mixture of both sides, whose gradient stays small for a student far from the teacher."""

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

    At skew 0 it is forward or reverse KL. It is at most -log(skew).
    """

    kind: ClassVar[str] = "skewed_kl"
    skew: float = between(0, 1, 0.1)  # less than 1
    reverse: bool = False
    weight: float = at_least(0, 1.0)

    def problems(self) -> Iterator[str]:
        """A mixture that is the distribution it is compared with."""
        if self.skew == 1:
            yield "skew=1 compares a distribution with itself"

    def pointwise(self, p: Float[Any, "*b"], q: Float[Any, "*b"]) -> Float[Any, "*b"]:
        import jax.numpy as jnp

        from cdjax.losses.divergence import expected

        a, b = (q, p) if self.reverse else (p, q)
        if self.skew == 0:
            return expected(a, a - b)
        return expected(a, a - jnp.logaddexp(a + math.log(self.skew), b + math.log1p(-self.skew)))
