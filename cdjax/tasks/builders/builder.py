"""What preparing a task from local files with tensorflow-datasets shares: array_record files, no TensorFlow.

In: a folder of a task's own files. Out: a dataset on disk that `tasks.load("tfds:NAME", data_dir=...)` reads.

A task adds one file beside this one, with a class whose name in snake case is the task's kind:

    class Fruit(Builder):
        COLUMNS = {"input": tfds.features.Text(), "output": tfds.features.Sequence(tfds.features.Text())}

        def rows(self, folder: Path) -> Rows:
            return fruit.read(folder, self.part)

a row in `BUILDERS` and one in `tasks.SOURCES`, and two functions in `cdjax/tasks/fruit.py`, which know nothing of
tensorflow-datasets: `read(folder, part) -> Rows`, every value plain (text, numbers, lists, dicts), and
`task(name, rows) -> Task`. A task's name is KIND:PART:METRIC, all but the kind may be left out, and the task is made of
the same rows whether they come from files or from a dataset. Parts that need nothing of each other are a dataset each
(`parts` names them); else there is one dataset, `read` gives all rows, and `task` picks by the name.
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
        """Every split's rows, read from the user's files; raises UserError."""

    @classmethod
    def parts(cls, folder: Path, part: str) -> list[str]:
        """The full names of the parts that `part` asks for, all if it is empty; [""] where a folder has no parts."""
        return [part]

    @property
    def part(self) -> str:
        """Which part of the folder this dataset holds; empty where it has no parts."""
        return self.builder_config.name if self.builder_config else ""

    def _info(self) -> tfds.core.DatasetInfo:
        # Demonstrations are shown in the order of the files.
        features = tfds.features.FeaturesDict(self.COLUMNS)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Row]]]:
        rows = self.rows(Path(dl_manager.manual_dir))
        return {split: self._generate_examples(many) for split, many in rows.items() if many}

    def _generate_examples(self, rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
        return iter(enumerate(rows))
