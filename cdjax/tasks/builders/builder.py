"""The base of builders, which prepare a task's local files with tensorflow-datasets, in array_record files.

In: a folder of a task's own files. Out: a dataset on disk that `tasks.load("tfds:NAME", data_dir=...)` reads.

A task adds a file beside this one, with a class whose name in snake case is the task's kind:

    class Fruit(Builder):
        COLUMNS = {"input": tfds.features.Text(), "output": tfds.features.Sequence(tfds.features.Text())}

        def rows(self, folder: Path) -> Rows:
            return fruit.read(folder, self.part)

a row in `BUILDERS` and one in `tasks.SOURCES`, and two functions in `cdjax/tasks/fruit.py`, which know nothing of
tensorflow-datasets: `read(folder, part) -> Rows`, all values plain (text, numbers, lists, dicts), and
`task(name, rows) -> Task`. A task's name is KIND:PART:METRIC, all but the kind may be left out, and the task is made of
the same rows whether they come from files or from a dataset. Parts that are independent have a dataset each (`parts`
names them); otherwise there is one dataset, `read` returns all rows, and `task` picks by the name.
"""

import abc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from cdjax.tasks.task import Row, Rows


class Builder(tfds.core.GeneratorBasedBuilder):
    """Writes the rows of every split in their order; a split without rows is left out."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Nothing is downloaded: give the folder with the task's files as manual_dir."
    COLUMNS: ClassVar[dict[str, Any]]  # name -> tfds feature

    @abc.abstractmethod
    def rows(self, folder: Path) -> Rows:
        """The rows of every split, read from the user's files. Raises UserError."""

    @classmethod
    def parts(cls, folder: Path, part: str) -> list[str]:
        """The full names of the parts that `part` asks for, all if it is empty; [""] if a folder has no parts."""
        return [part]

    @property
    def part(self) -> str:
        """The part of the folder that this dataset holds; empty if there are no parts."""
        return self.builder_config.name if self.builder_config else ""

    def _info(self) -> tfds.core.DatasetInfo:
        # Demonstrations are shown in the order of the files.
        features = tfds.features.FeaturesDict(self.COLUMNS)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Row]]]:
        rows = self.rows(Path(dl_manager.manual_dir))
        return {split: self._generate_examples(of_split) for split, of_split in rows.items() if of_split}

    def _generate_examples(self, rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
        return iter(enumerate(rows))
