"""A student of low-rank weights beside every matrix; the matrices are frozen."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cdjax.parts import above, at_least
from cdjax.students import Origin


@dataclass(frozen=True)
class LowRank:
    """Low-rank adaptation (LoRA, arXiv 2106.09685): each matrix w becomes w + alpha / rank * a @ b, b at first zero."""

    kind: ClassVar[str] = "low_rank"
    rank: int = at_least(1, 16)
    alpha: float = above(0, 16.0)

    def init(self, decoder: Any, *, seed: int, context: Any) -> tuple[Any, Any]:
        """Fresh low-rank weights, and the decoder, with low-rank weights that it already has merged."""
        from cdjax.students import adapter

        base = adapter.merge(decoder)
        return adapter.fresh(base, self.rank, seed), base

    def reader(self, trainable: Any, frozen: Any) -> Any:
        """A `Reader` of the decoder with the low-rank weights."""
        from cdjax.model.reader import Reader
        from cdjax.students import adapter

        return Reader(adapter.put(frozen, trainable, self.alpha / self.rank))

    def base(self, trainable: Any, frozen: Any) -> Any:
        """The decoder without the low-rank weights."""
        return frozen

    def export(self, trainable: Any, frozen: Any, directory: Path, origin: Origin) -> None:
        """Writes a directory that transformers loads, with the low-rank weights merged."""
        from cdjax.model.files import huggingface
        from cdjax.students import adapter

        merged = adapter.merge(self.reader(trainable, frozen).decoder)
        huggingface.write(merged, origin.tokenizer, directory, stop_ids=origin.stop_ids)
