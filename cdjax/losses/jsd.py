"""The generalised Jensen-Shannon divergence, between forward and reverse KL."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float

from cdjax.losses.forward_kl import ForwardKL
from cdjax.losses.loss import Divergence
from cdjax.losses.reverse_kl import ReverseKL
from cdjax.parts import at_least, between


@dataclass(frozen=True)
class JSD(Divergence):
    """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q (GKD, arXiv 2306.13649, equation 1).

    That is 0 at beta 0 and 1, which give its scaled limits instead: forward KL and reverse KL.
    """

    kind: ClassVar[str] = "jsd"
    beta: float = between(0, 1, 0.5)
    weight: float = at_least(0, 1.0)

    def pointwise(self, p: Float[Any, "*b"], q: Float[Any, "*b"]) -> Float[Any, "*b"]:
        import jax.numpy as jnp

        from cdjax.losses.divergence import expected

        if self.beta in (0, 1):
            return (ReverseKL() if self.beta else ForwardKL()).pointwise(p, q)
        m = jnp.logaddexp(p + math.log(self.beta), q + math.log1p(-self.beta))
        return self.beta * expected(p, p - m) + (1 - self.beta) * expected(q, q - m)
