import numpy as np
import pytest

from cdjax import evaluate


def test_the_interval_covers_as_often_as_it_says():
    """Of 2,000 draws of 128 examples at several accuracies, about 95 % have the true one inside."""
    rng = np.random.default_rng(0)
    for accuracy in (0.05, 0.5, 0.9):
        means = rng.binomial(128, accuracy, 2000) / 128
        inside = [low <= accuracy <= high for low, high in (evaluate.wilson(mean, 128) for mean in means)]
        assert 0.93 < np.mean(inside) < 0.98


def test_the_interval_stays_in_range_and_holds_the_mean():
    for n in (1, 8, 100):
        for mean in (0.0, 0.3, 1.0):
            low, high = evaluate.wilson(mean, n)
            assert 0 <= low <= mean <= high <= 1 and high > low


def test_seeds_do_not_narrow_the_interval():
    one = evaluate.summary("accuracy", [[1.0, 0.0, 1.0, 1.0]])
    three = evaluate.summary("accuracy", [[1.0, 0.0, 1.0, 1.0]] * 3)
    assert three["ci95"] == one["ci95"] and three["n"] == 4 and three["per_seed"] == [0.75] * 3
    assert three["mean"] == pytest.approx(0.75)
