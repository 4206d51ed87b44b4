"""Graded answers of several seeds -> a mean with its interval."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

Graded: TypeAlias = dict[str, Any]  # COLUMNS; `tokens` is the mean length of prompt and answer
COLUMNS = ("operations", "views", "inputs", "expected", "answers", "grades")  # lists with an entry for each example


def summary(
    metric: str, grades: Sequence[Sequence[float]], magnitudes: Sequence[Sequence[float | None]] = ()
) -> dict[str, Any]:
    """An entry of `scores` in results.json, from grades and magnitudes [seeds][examples].

    `magnitude` is their mean, left out if every magnitude is None.
    """
    per_seed = [float(np.mean(seed)) for seed in grades]
    mean, n = float(np.mean(per_seed)), len(grades[0])
    known = [magnitude for seed in magnitudes for magnitude in seed if magnitude is not None]
    entry = {"metric": metric, "mean": mean, "ci95": list(wilson(mean, n)), "n": n, "per_seed": per_seed}
    return entry | ({"magnitude": float(np.mean(known))} if known else {})


def wilson(mean: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % score interval for the mean of n grades in 0 .. 1; for grades between 0 and 1 never too narrow.

    n counts distinct examples: further seeds answer the same ones, so they do not narrow it.
    """
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
