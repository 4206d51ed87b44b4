"""A run's state and its progress on disk, through Orbax.

In: a pytree of arrays and a JSON dictionary. Out: the same, placed as the tree that is given for comparison.
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
    """Numbered checkpoints in one folder, each complete or absent; those with the highest `keep` numbers stay.

    On disk the tree is one dictionary from leaf names to arrays, so that reading it needs none of our classes.
    """

    def __init__(self, directory: str | Path, *, keep: int = 2) -> None:
        self._directory = Path(directory).absolute()
        self._keep = keep

    @contextlib.contextmanager
    def writing(self) -> Iterator[Save]:
        """Yields `save(step, tree, progress)`, which replaces a checkpoint of that number; `progress` is JSON.

        `save` returns when it has a copy of the tree on the host, so that the arrays may be donated; the next `save`
        waits for what is still being written, and so does the end of the `with` block, however it is left.
        """
        with self._open() as checkpointer:

            def save(step: int, tree: Any, progress: dict[str, Any]) -> None:
                checkpointer.wait()
                checkpointer.save_async(step, _named(tree), custom_metadata=progress, overwrite=True)

            yield save
            checkpointer.wait()

    def latest(self) -> int | None:
        """The highest number; None if there is no checkpoint. What a killed save left behind does not count."""
        found = self._directory.iterdir() if self._directory.is_dir() else ()
        return max((int(path.name) for path in found if path.name.isdigit()), default=None)

    def progress(self, step: int) -> dict[str, Any]:
        """What was saved beside the tree. Raises UserError if it cannot be read."""
        return self._read(step, lambda checkpointer: checkpointer.metadata(step).custom_metadata)

    def load(self, step: int, like: Any) -> Any:
        """The tree in the structure, dtypes and shardings of `like` (arrays, or ShapeDtypeStructs with shardings).

        Raises UserError if the checkpoint cannot be read or holds another tree than `like`.
        """
        wanted = {name: _abstract(leaf) for name, leaf in _named(like).items()}
        stored = self._read(step, lambda checkpointer: checkpointer.metadata(step).metadata)
        different = sorted(
            name for name in wanted.keys() | stored.keys() if not _fits(wanted.get(name), stored.get(name))
        )
        if different:
            raise UserError(
                f"checkpoint {self._directory / str(step)} is of another model or optimizer: {len(different)} arrays "
                f"differ, first {different[0]}: wanted {wanted.get(different[0])}, found {stored.get(different[0])}"
            )
        leaves = self._read(step, lambda checkpointer: checkpointer.load(step, wanted))
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted])

    def _open(self) -> ocp.training.Checkpointer:
        newest = ocp.training.preservation_policies.LatestN(self._keep)
        return ocp.training.Checkpointer(self._directory, preservation_policy=newest)

    def _read(self, step: int, read: Callable[[ocp.training.Checkpointer], Read]) -> Read:
        try:
            with self._open() as checkpointer:
                found = read(checkpointer)
                if found is None:
                    raise ValueError("no metadata")
                return found
        except Exception as error:  # for bytes that it cannot read, Orbax raises Exception itself
            raise UserError(
                f"checkpoint {self._directory / str(step)} cannot be read ({type(error).__name__}); "
                "delete that folder to go on from the one before it"
            ) from error


def _named(tree: Any) -> dict[str, Any]:
    """Leaf name -> leaf, in the order of the tree's leaves."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _fits(wanted: jax.ShapeDtypeStruct | None, stored: Any) -> bool:
    if wanted is None or stored is None:
        return False
    # A typed key is stored as its words, one axis more.
    is_key = jax.dtypes.issubdtype(wanted.dtype, jax.dtypes.prng_key)
    return wanted.shape == (stored.shape[:-1] if is_key else stored.shape)
