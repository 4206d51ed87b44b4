"""Keys and values before every row train, and the decoder stays as it is: a prefix in the place of the context."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from cdjax.errors import UserError
from cdjax.parts import at_least

AXES = ("layers", "length", "kv_heads", "length", "head_dim")


@dataclass(frozen=True)
class KVPrefix:
    """Prefix tuning (arXiv 2101.00190) of `tokens` positions in every layer, as in Cartridges (arXiv 2506.06266).

    The student reads each of its prompts after them. They begin as the keys and values of the first tokens of the
    teacher's context, of random tokens, or of a prefix in a file. With `freeze_first` the first position, to which much
    attention goes whatever stands there, has no gradient: it stays as it began.
    """

    kind: ClassVar[str] = "kv_prefix"
    tokens: int = at_least(1, 64)
    start: Literal["context", "random", "file"] = "context"
    file: str = ""  # of an exported prefix: the file, or its directory
    freeze_first: bool = False

    def problems(self) -> Iterator[str]:
        """A file without `start="file"`, or the reverse; nothing left that trains."""
        if (self.start == "file") != bool(self.file):
            yield f"file={self.file!r} goes with start='file', and start is {self.start!r}"
        if self.freeze_first and self.tokens == 1:
            yield "freeze_first=True leaves nothing of tokens=1 to train"

    def init(self, decoder: Any, *, seed: int, context: Any) -> tuple[Any, Any]:
        """The keys and values that train, by name, and the decoder, which is frozen.

        Raises UserError for a context of fewer tokens, and for a file of more or fewer.
        """
        import jax
        import jax.numpy as jnp
        from flax import nnx

        with jax.set_mesh(decoder.embedding[...].sharding.mesh):
            prefix = self._start(decoder, seed, context)
        both = {"k": prefix.k, "v": prefix.v}
        return {name: nnx.Param(x.astype(jnp.float32), axes=AXES) for name, x in both.items()}, decoder

    def reader(self, trainable: Any, frozen: Any) -> Any:
        """A `Reader` of the frozen decoder after the prefix."""
        import jax
        import jax.numpy as jnp

        from cdjax.model.cache import Prefix
        from cdjax.model.reader import Reader

        def placed(name: str) -> Any:
            x = trainable[name][...]
            if self.freeze_first:
                x = jnp.concatenate([jax.lax.stop_gradient(x[:, :, :, :1]), x[:, :, :, 1:]], 3)
            return x.astype(frozen.dtype)

        return Reader(frozen, Prefix(placed("k"), placed("v"), jnp.array([self.tokens], jnp.int32)))

    def base(self, trainable: Any, frozen: Any) -> Any:
        """The frozen decoder."""
        return frozen

    def export(
        self, trainable: Any, frozen: Any, directory: Path, *, tokenizer: Any, stop_ids: Sequence[int], source: str
    ) -> None:
        """A directory with the prefix alone, which `cdjax.load_model` puts before the model that it came from."""
        from cdjax.model.files import prefix

        found = self.reader(trainable, frozen).prefix
        k, v = (x[:, :, :, : self.tokens] for x in (found.k, found.v))
        prefix.write(directory, k, v, model=source, stop_ids=stop_ids)

    def _start(self, decoder: Any, seed: int, context: Any) -> Any:
        from cdjax.model.files import prefix
        from cdjax.model.reader import Reader

        if self.start == "file":
            path = prefix.find(self.file)
            if path is None:
                raise UserError(f"student.file={self.file!r} is no {prefix.NAME} and no directory with one")
            found = prefix.read(path).prefix(decoder)
            if int(found.lengths[0]) != self.tokens:
                raise UserError(f"student.tokens={self.tokens}, but {path} has {int(found.lengths[0])} positions")
            return found
        ids = np.asarray(context, np.int32)[: self.tokens]
        if self.start == "random":
            ids = np.random.default_rng(seed).integers(decoder.spec.vocab, size=self.tokens).astype(np.int32)
        if len(ids) < self.tokens:
            raise UserError(
                f"student.tokens={self.tokens}, but the teacher's context has only {len(ids)}; ask for fewer, or set "
                "student.start=random"
            )
        return Reader(decoder).after(ids).prefix
