"""A run's checkpoints: a pytree of arrays and a JSON dictionary (its progress) on disk, through Orbax.

In: tree and progress. Out: the same, with the arrays placed as those of a tree of like structure.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from cdjax.errors import UserError

Read = TypeVar("Read")
Save: TypeAlias = Callable[[int, Any, dict[str, Any]], None]


class Checkpoints:
    """Numbered checkpoints in a folder, each complete or absent; those with the highest `keep` numbers stay.

    On disk the tree is a dictionary from leaf names to arrays, which can be read without this package's classes.
    """

    def __init__(self, directory: str | Path, *, keep: int = 2) -> None:
        self._directory = Path(directory).absolute()
        self._keep = keep

    @contextlib.contextmanager
    def writing(self) -> Iterator[Save]:
        """Yields `save(step, tree, progress)`, which replaces a checkpoint of that number; `progress` is JSON.

        `save` returns when it has a copy of the tree on the host, so that the arrays may be donated; the next `save`
        waits until that copy is written, and so does the end of the `with` block, however it is left.
        """
        with self._open() as checkpointer:

            def save(step: int, tree: Any, progress: dict[str, Any]) -> None:
                checkpointer.wait()
                checkpointer.save_async(step, _named(tree), custom_metadata=progress, overwrite=True)

            yield save
            checkpointer.wait()

    def latest(self) -> int | None:
        """The highest number of a complete checkpoint; None if there is none."""
        paths = self._directory.iterdir() if self._directory.is_dir() else ()
        # Orbax renames a folder to its number once the checkpoint is complete.
        return max((int(path.name) for path in paths if path.name.isdigit()), default=None)

    def progress(self, step: int) -> dict[str, Any]:
        """The progress saved with the tree. Raises UserError if it cannot be read."""
        return self._read(step, lambda checkpointer: checkpointer.metadata(step).custom_metadata)

    def load(self, step: int, like: Any) -> Any:
        """The tree in the structure, dtypes and shardings of `like` (arrays, or ShapeDtypeStructs with shardings).

        Raises UserError if the checkpoint cannot be read or holds another tree than `like`.
        """
        abstract = {name: _abstract(leaf) for name, leaf in _named(like).items()}
        stored = self._read(step, lambda checkpointer: checkpointer.metadata(step).metadata)
        different = sorted(
            name for name in abstract.keys() | stored.keys() if not _fits(abstract.get(name), stored.get(name))
        )
        if different:
            raise UserError(
                f"checkpoint {self._directory / str(step)} is of another model or optimizer: {len(different)} arrays "
                f"differ, first {different[0]}: wanted {abstract.get(different[0])}, found {stored.get(different[0])}"
            )
        leaves = self._read(step, lambda checkpointer: checkpointer.load(step, abstract))
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in abstract])

    def _open(self) -> ocp.training.Checkpointer:
        newest = ocp.training.preservation_policies.LatestN(self._keep)
        return ocp.training.Checkpointer(self._directory, preservation_policy=newest)

    def _read(self, step: int, read: Callable[[ocp.training.Checkpointer], Read]) -> Read:
        try:
            with self._open() as checkpointer:
                content = read(checkpointer)
                if content is None:
                    raise ValueError("no metadata")
                return content
        except Exception as error:  # Orbax raises a plain Exception for bytes that it cannot read
            raise UserError(
                f"checkpoint {self._directory / str(step)} cannot be read ({type(error).__name__}); "
                "delete that folder to go on from the one before it"
            ) from error


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by name, in the order of the tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _fits(leaf: jax.ShapeDtypeStruct | None, stored: Any) -> bool:
    if leaf is None or stored is None:
        return False
    # A typed key is stored as its words, along an additional axis.
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return leaf.shape == (stored.shape[:-1] if is_key else stored.shape)
