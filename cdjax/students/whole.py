"""A student whose weights all train."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class Whole:
    """Full fine-tuning: the trainable weights are the decoder's."""

    kind: ClassVar[str] = "whole"

    def init(self, decoder: Any, *, seed: int, context: Any) -> tuple[Any, Any]:
        """The decoder, and nothing frozen."""
        return decoder, ()

    def reader(self, trainable: Any, frozen: Any) -> Any:
        """A `Reader` of the decoder."""
        from cdjax.model.reader import Reader

        return Reader(trainable)

    def base(self, trainable: Any, frozen: Any) -> Any:
        """The decoder."""
        return trainable

    def export(
        self, trainable: Any, frozen: Any, directory: Path, *, tokenizer: Any, stop_ids: Sequence[int], source: str
    ) -> None:
        """Writes a directory that transformers loads."""
        from cdjax.model.files import huggingface

        huggingface.write(trainable, tokenizer, directory, stop_ids=stop_ids)
