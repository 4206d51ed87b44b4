"""Tasks as tensorflow-datasets: prepared once from local files, read by `tasks.load("tfds:NAME", data_dir=...)`.

In: a folder of files, or of prepared datasets. Out: Rows by split (natural_instructions.py beside task.py, ...).
"""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cdjax.errors import UserError
from cdjax.tasks.builders.builder import Builder
from cdjax.tasks.builders.counterfact import Counterfact
from cdjax.tasks.builders.natural_instructions import NaturalInstructions
from cdjax.tasks.builders.spider import Spider
from cdjax.tasks.task import Rows, named

__all__ = ["Builder", "prepare", "read"]

BUILDERS: dict[str, type[Builder]] = {kind.name: kind for kind in (NaturalInstructions, Spider, Counterfact)}


def prepare(name: str, source: str | Path, data_dir: str | Path) -> list[Path]:
    """Writes the task's files in `source` as datasets under `data_dir`, replacing older ones. Returns their folders.

    A part after a colon, as "natural_instructions:task1155", prepares that part alone. Raises UserError if the files
    cannot be read or the datasets cannot be written.
    """
    kind, _, part = name.partition(":")
    builder_of = _builder(kind)
    source = Path(source)
    if not source.is_dir() or not any(source.iterdir()):
        raise UserError(f"cannot prepare {name!r} from {str(source)!r}: it is not a folder with files in it")
    try:
        Path(data_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot prepare {name!r} in {str(data_dir)!r}: {error.strerror}; give a folder") from None
    download = tfds.download.DownloadConfig(manual_dir=source, download_mode=tfds.GenerateMode.REUSE_CACHE_IF_EXISTS)
    tfds.disable_progress_bar()
    directories = []
    for name in builder_of.parts(source, part):
        config = {"config": tfds.core.BuilderConfig(name=name, version=str(builder_of.VERSION))} if name else {}
        builder = builder_of(data_dir=str(data_dir), file_format="array_record", **config)
        builder.download_and_prepare(download_config=download)
        directories.append(Path(builder.data_path))
    return directories


def read(kind: str, part: str, data_dir: str | Path) -> Rows:
    """The rows of a prepared dataset by split, in the order they were prepared in, all values plain.

    Raises UserError if the dataset does not exist or cannot be read.
    """
    directory = _directory(kind, part, Path(data_dir))
    try:
        builder = tfds.builder_from_directory(directory)
        return {split: [_plain(row) for row in builder.as_data_source(split=split)] for split in builder.info.splits}
    except Exception as error:  # its type depends on the file that is damaged
        raise UserError(f"cannot read the prepared {kind!r} in {str(directory)!r}: {error}; prepare it again") from None


def _builder(kind: str) -> type[Builder]:
    if kind not in BUILDERS:
        raise UserError(f"no task {kind!r} can be prepared; there are {', '.join(BUILDERS)}")
    return BUILDERS[kind]


def _directory(kind: str, part: str, data_dir: Path) -> Path:
    version = str(_builder(kind).VERSION)
    folder = data_dir / kind
    if (folder / version).is_dir():
        return folder / version
    parts = [path.parent.name for path in folder.glob(f"*/{version}")]
    if not parts:
        raise UserError(f"{str(data_dir)!r} has no prepared {kind!r}; see cdjax.tasks.builders.prepare")
    return folder / named(part, parts, f"prepared {kind}") / version


def _plain(value: Any) -> Any:
    """A value of a dataset as Python's: text, which tfds reads as bytes, and numbers, which it reads as numpy's."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value
