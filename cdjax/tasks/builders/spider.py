"""Spider's files -> one dataset a database, with its tables in every row; the SQLite file stays where it is."""

from pathlib import Path

import tensorflow_datasets as tfds

from cdjax.tasks import spider
from cdjax.tasks.builders.builder import Builder
from cdjax.tasks.task import Rows, named


class Spider(Builder):
    """Splits: dev or train, by the file that asks about the database."""

    COLUMNS = {name: tfds.features.Text() for name in ("question", "query", "tables", "database")}

    @classmethod
    def parts(cls, folder: Path, part: str) -> list[str]:
        names = spider.names(folder)
        return [named(part, names, str(folder))] if part else names

    def rows(self, folder: Path) -> Rows:
        return spider.read(folder, self.part)
