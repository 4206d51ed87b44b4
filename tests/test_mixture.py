"""GKD's lambda: 0 and 1 are the pure sources, and between them inputs are shared out."""

import dataclasses

import jax
import numpy as np
import pytest

from cdjax import config
from cdjax.distill import opening, plan, stages
from tests.test_rounds import experiment


def answered(tmp_path, source):
    """What the first segment's source answers on a run of another student than the model."""
    run = opening.open(experiment(sources=(source,)), tmp_path)
    round = plan.rounds(run, 0)[0]
    student = jax.tree.map(lambda x: 1.5 * x, run.student.base)
    with jax.set_mesh(run.mesh):
        return stages.ask(round, (0,), None, student, stages.show(round, 0))


@pytest.mark.parametrize("share, pure", [(0.0, config.FromTeacher()), (1.0, config.FromStudent())])
def test_the_ends_of_the_mixture_are_the_pure_sources(share, pure, tmp_path):
    mixed, alone = answered(tmp_path / "mixed", config.Mixture(share)), answered(tmp_path / "alone", pure)
    assert len(mixed) == len(alone) == 12
    for one, other in zip(mixed, alone, strict=True):
        assert jax.tree.all(jax.tree.map(np.array_equal, dataclasses.asdict(one), dataclasses.asdict(other)))


def test_every_input_is_answered_once_by_one_of_the_two(tmp_path):
    mixed = answered(tmp_path, config.Mixture(0.5))
    assert len({one.input for one in mixed}) == len(mixed) == 12
    writers = (tmp_path / "rollouts/seed_0/round_0/operation_0").glob("*/asked.json")
    assert {path.parent.name for path in writers} == {"teacher", "student"}


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_is_from_0_to_1(share):
    with pytest.raises(config.UserError, match="training.sources.0.student must be between 0 and 1"):
        config.check.validate(experiment(sources=(config.Mixture(share),)))
