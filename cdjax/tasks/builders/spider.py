"""Spider's files -> a dataset for each database, with its tables in every row; the SQLite file is not copied."""

from pathlib import Path

import tensorflow_datasets as tfds

from cdjax.tasks import spider
from cdjax.tasks.builders.builder import Builder
from cdjax.tasks.task import Rows, named


class Spider(Builder):
    """Splits: dev or train, by the file with the questions about the database."""

    COLUMNS = {name: tfds.features.Text() for name in ("question", "query", "tables", "database")}

    @classmethod
    def parts(cls, folder: Path, part: str) -> list[str]:
        names = spider.names(folder)
        return [named(part, names, str(folder))] if part else names

    def rows(self, folder: Path) -> Rows:
        return spider.read(folder, self.part)
