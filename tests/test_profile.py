import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from cdjax.workdir.profile import STEPS, WARM, Profile


def run(profile, total, stage="update"):
    """So many steps, each with its number in the trace."""
    with profile.steps(stage, total) as tick:
        for step in range(1, total + 1):
            with jax.profiler.StepTraceAnnotation("step", step_num=step):
                jax.block_until_ready(jnp.ones(3) + step)
            tick()


def traced(path):
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sorted({int(event["args"]["step_num"]) for event in events if event.get("name", "").startswith("step")})


@pytest.mark.parametrize(
    ("total", "steps"),
    [(20, range(WARM + 1, WARM + STEPS + 1)), (STEPS + 1, range(2, STEPS + 2)), (2, range(1, 3))],
)
def test_a_few_warm_steps_are_traced(total, steps, tmp_path):
    profile = Profile(tmp_path)
    run(profile, total)
    assert profile.written == {"update": tmp_path / "update.json.gz"}
    assert traced(tmp_path / "update.json.gz") == list(steps)


def test_every_stage_is_traced_once(tmp_path):
    profile = Profile(tmp_path)
    run(profile, 6)
    before = (tmp_path / "update.json.gz").stat().st_mtime_ns
    run(profile, 6)
    run(profile, 6, "sample")
    assert (tmp_path / "update.json.gz").stat().st_mtime_ns == before and set(profile.written) == {"update", "sample"}


def test_a_stage_that_fails_leaves_no_trace_running(tmp_path):
    profile = Profile(tmp_path)
    with pytest.raises(KeyboardInterrupt), profile.steps("update", 2):
        raise KeyboardInterrupt
    run(profile, 6, "sample")
    assert (tmp_path / "sample.json.gz").exists()


def test_without_a_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(Profile(None), 6)
    assert list(tmp_path.iterdir()) == []
