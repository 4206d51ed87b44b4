"""How likely the teacher found the written token: what on-policy distillation by policy gradient needs, and no more."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int

from cdjax.sampling.targets.target import Recorded, Target


@dataclass(frozen=True)
class TokenLogprob(Target):
    """The written token's log-probability under the teacher, four bytes a token.

    A token's advantage is log p - log q: over the student's own answers the policy gradient with it is that of the
    reverse KL, KL(q || p) (MiniLLM, arXiv 2306.08543, with a discount of 0).
    """

    kind: ClassVar[str] = "token_logprob"
    gives: ClassVar[frozenset[str]] = frozenset({"advantage"})

    def buffers(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """The token's `logprob`."""
        return {"logprob": ((), "float32")}

    def observe(self, logits: Float[Any, "B V"], ids: Int[Any, "B"], uniforms: Float[Any, "B u"]) -> Recorded:
        import jax
        import jax.numpy as jnp

        logprobs = jax.nn.log_softmax(logits.astype(jnp.float32))
        return {"logprob": jnp.take_along_axis(logprobs, ids[:, None], 1)[:, 0]}

    def certain(self, ids: Int[Any, "C"], vocab: int) -> Recorded:
        import numpy as np

        return {"logprob": np.zeros(len(ids), np.float32)}

    def advantage(self, recorded: Recorded, student: Float[Any, "n"]) -> Float[Any, "n"]:
        return recorded["logprob"] - student
