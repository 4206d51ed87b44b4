"""In processes of their own: the cache is set once for all of a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cdjax
from cdjax import compiled, config

ROOT = Path(__file__).parent.parent
PROGRAM = """
import collections
import jax
from cdjax import compiled
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name.rpartition("/")[2]]))
compiled.keep()
jax.jit(lambda x: x @ x)(jax.numpy.ones((4, 4)))
print(counts["cache_hits"], counts["cache_misses"], jax.config.values["jax_compilation_cache_dir"])
"""


def run(tmp_path, **environment):
    """Cache hits, misses, where the cache is, and what was said on stderr."""
    inherited = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=inherited | {"HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    hits, misses, where = done.stdout.split()
    return int(hits), int(misses), where, done.stderr


def test_a_second_run_compiles_nothing(tmp_path):
    hits, misses, where, _ = run(tmp_path)
    assert hits == 0 and misses > 1 and where == str(tmp_path / ".cache" / "cdjax" / "xla")
    assert run(tmp_path)[:2] == (misses, 0)


def test_what_is_damaged_is_compiled_again(tmp_path):
    run(tmp_path)
    kept = list(tmp_path.rglob("*-cache"))
    for path in kept:
        path.write_bytes(path.read_bytes()[:100])
    assert kept and run(tmp_path)[0] == 0


def test_a_run_and_a_loaded_model_keep_what_they_compile(tmp_path, monkeypatch):
    class Kept(Exception):
        pass

    def keep():
        raise Kept

    monkeypatch.setattr(compiled, "keep", keep)
    with pytest.raises(Kept):
        cdjax.load_model("tiny:0")
    with pytest.raises(Kept):
        cdjax.run(config.load_config(ROOT / "configs" / "tiny.py"), tmp_path)


@pytest.mark.parametrize(
    ("environment", "where"),
    [
        ({"CDJAX_CACHE": "here"}, "here/xla"),
        ({"XDG_CACHE_HOME": "there"}, "there/cdjax/xla"),
        ({"JAX_COMPILATION_CACHE_DIR": "mine", "CDJAX_CACHE": "here"}, "mine"),
    ],
)
def test_the_environment_says_where(environment, where, tmp_path):
    environment = {name: str(tmp_path / value) for name, value in environment.items()}
    assert run(tmp_path, **environment)[2] == str(tmp_path / where)


def test_a_directory_that_cannot_be_written_does_no_harm(tmp_path):
    (tmp_path / "file").touch()
    hits, _, where, said = run(tmp_path, CDJAX_CACHE=str(tmp_path / "file"))
    assert hits == 0 and where == "None"
    assert said.count("\n") == 1 and "compiled programs are not kept" in said and "set CDJAX_CACHE" in said
