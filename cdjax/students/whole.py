"""A student whose weights all train."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cdjax.students import Origin


@dataclass(frozen=True)
class Whole:
    """Full fine-tuning: the trainable weights are the decoder's."""

    kind: ClassVar[str] = "whole"

    def init(self, decoder: Any, *, seed: int, context: Any) -> tuple[Any, Any]:
        """The decoder's weights, and how they make a decoder: a step passes weights in and out faster than modules."""
        from flax import nnx

        graph, weights = nnx.split(decoder)
        return weights, graph

    def reader(self, trainable: Any, frozen: Any) -> Any:
        """A `Reader` that is the decoder with these weights."""
        from cdjax.model.reader import Reader

        return Reader(self.base(trainable, frozen))

    def base(self, trainable: Any, frozen: Any) -> Any:
        """The decoder with these weights."""
        from flax import nnx

        return nnx.merge(frozen, trainable)

    def export(self, trainable: Any, frozen: Any, directory: Path, origin: Origin) -> None:
        """Writes a directory that transformers loads."""
        from cdjax.model.files import huggingface

        huggingface.write(self.base(trainable, frozen), origin.tokenizer, directory, stop_ids=origin.stop_ids)
