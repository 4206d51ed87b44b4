"""A student that is a prefix of keys and values in the place of the context; the decoder is frozen."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from cdjax.errors import UserError
from cdjax.parts import at_least
from cdjax.students import Origin

AXES = ("layers", "length", "kv_heads", "length", "head_dim")


@dataclass(frozen=True)
class KVPrefix:
    """Prefix tuning (arXiv 2101.00190) of `tokens` positions in every layer, as in Cartridges (arXiv 2506.06266).

    The student reads each of its prompts after the prefix, which begins as the keys and values of the first tokens of
    the teacher's context, of random tokens, or of a prefix in a file. With `freeze_first` its first position has no
    gradient: much attention goes to a first position, whatever its keys are (an attention sink).
    """

    kind: ClassVar[str] = "kv_prefix"
    tokens: int = at_least(1, 64)
    start: Literal["context", "random", "file"] = "context"
    file: str = ""  # an exported prefix: the file, or its directory
    freeze_first: bool = False

    def problems(self) -> Iterator[str]:
        """A file without `start="file"`, or the reverse; a prefix of which nothing trains."""
        if (self.start == "file") != bool(self.file):
            yield f"file={self.file!r} goes with start='file', and start is {self.start!r}"
        if self.freeze_first and self.tokens == 1:
            yield "freeze_first=True leaves nothing of tokens=1 to train"

    def init(self, decoder: Any, *, seed: int, context: Any) -> tuple[Any, Any]:
        """The trainable keys "k" and values "v", float32 [L, 1, K, P, H] with P >= `tokens`, and the frozen decoder.

        Raises UserError for a context of fewer than `tokens`, or a prefix file of another length.
        """
        import jax
        import jax.numpy as jnp
        from flax import nnx

        with jax.set_mesh(decoder.embedding[...].sharding.mesh):
            prefix = self._start(decoder, seed, context)
        start = {"k": prefix.k, "v": prefix.v}
        return {name: nnx.Param(x.astype(jnp.float32), axes=AXES) for name, x in start.items()}, decoder

    def reader(self, trainable: Any, frozen: Any) -> Any:
        """A `Reader` of the frozen decoder after the prefix."""
        import jax
        import jax.numpy as jnp

        from cdjax.model.cache import Prefix
        from cdjax.model.reader import Reader

        def stored(name: str) -> Any:
            x = trainable[name][...]
            if self.freeze_first:
                x = jnp.concatenate([jax.lax.stop_gradient(x[:, :, :, :1]), x[:, :, :, 1:]], 3)
            return x.astype(frozen.dtype)

        return Reader(frozen, Prefix(stored("k"), stored("v"), jnp.array([self.tokens], jnp.int32)))

    def base(self, trainable: Any, frozen: Any) -> Any:
        """The frozen decoder."""
        return frozen

    def export(self, trainable: Any, frozen: Any, directory: Path, origin: Origin) -> None:
        """Writes a directory with the prefix alone, which `cdjax.load_model` puts before the model it came from."""
        from cdjax.model.files import prefix

        trained = self.reader(trainable, frozen).prefix
        k, v = (x[:, :, :, : self.tokens] for x in (trained.k, trained.v))
        prefix.write(directory, k, v, model=origin.source, stop_ids=origin.stop_ids, layers=origin.layers)

    def _start(self, decoder: Any, seed: int, context: Any) -> Any:
        from cdjax.model.files import prefix
        from cdjax.model.reader import Reader

        if self.start == "file":
            path = prefix.find(self.file)
            if path is None:
                raise UserError(f"student.file={self.file!r} is no {prefix.NAME} and no directory with one")
            stored = prefix.read(path).prefix(decoder)
            if int(stored.lengths[0]) != self.tokens:
                raise UserError(f"student.tokens={self.tokens}, but {path} has {int(stored.lengths[0])} positions")
            return stored
        ids = np.asarray(context, np.int32)[: self.tokens]
        if self.start == "random":
            ids = np.random.default_rng(seed).integers(decoder.spec.vocab, size=self.tokens).astype(np.int32)
        if len(ids) < self.tokens:
            raise UserError(
                f"student.tokens={self.tokens}, but the teacher's context has only {len(ids)}; ask for fewer, or set "
                "student.start=random"
            )
        return Reader(decoder).after(ids).prefix
