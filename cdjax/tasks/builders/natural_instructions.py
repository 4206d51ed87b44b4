"""Natural-Instructions task files -> a dataset for each task, with its definition in every row."""

from pathlib import Path

import tensorflow_datasets as tfds

from cdjax.tasks import natural_instructions
from cdjax.tasks.builders.builder import Builder
from cdjax.tasks.task import Rows, named


class NaturalInstructions(Builder):
    """Splits: train and test (or all, from a single file), and the positive and negative examples."""

    COLUMNS = {
        "definition": tfds.features.Text(),
        "input": tfds.features.Text(),
        "outputs": tfds.features.Sequence(tfds.features.Text()),
        "explanation": tfds.features.Text(),
    }

    @classmethod
    def parts(cls, folder: Path, part: str) -> list[str]:
        names = natural_instructions.names(folder)
        return [named(part, names, str(folder))] if part else names

    def rows(self, folder: Path) -> Rows:
        return natural_instructions.read(folder, self.part)
