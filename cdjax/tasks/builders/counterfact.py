"""CounterFact files in either form -> a dataset of facts."""

from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from cdjax.tasks import counterfact
from cdjax.tasks.builders.builder import Builder
from cdjax.tasks.task import Rows

TEXT, TEXTS = tfds.features.Text(), tfds.features.Sequence(tfds.features.Text())


class Counterfact(Builder):
    """A single split, "facts", in the order of the cases."""

    COLUMNS = {
        "case": np.int64,
        **dict.fromkeys(("relation", "subject", "wording", "old", "new"), TEXT),
        **dict.fromkeys(("paraphrases", "neighbours", "attributes", "generations"), TEXTS),
    }

    @classmethod
    def parts(cls, folder: Path, part: str) -> list[str]:
        return [""]

    def rows(self, folder: Path) -> Rows:
        return counterfact.read(folder)
