"""Traces of a few steps of a stage, for https://ui.perfetto.dev; a trace of a whole run would fill the disk.

In: the steps of a stage as they end. Out: `update.json.gz` and `sample.json.gz`, and beside them the files for xprof.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

WARM = 3  # steps before the trace begins, in which programs are compiled
STEPS = 5  # in the trace


class Profile:
    """Traces each stage once, or none if `directory` is None. `written` has each stage's file."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self.written: dict[str, Path] = {}

    @contextlib.contextmanager
    def steps(self, stage: str, total: int) -> Iterator[Callable[[], None]]:
        """Yields a function to call after each of `total` steps. A stage too short to warm up is traced whole."""
        if self._directory is None or stage in self.written or total < 1:
            yield lambda: None
            return
        first = max(0, min(WARM, total - STEPS))
        done = 0
        with contextlib.ExitStack() as traced:

            def tick() -> None:
                nonlocal done
                done += 1
                if done == first:
                    traced.enter_context(self._trace(stage))
                if done == first + STEPS:
                    traced.close()

            if not first:
                traced.enter_context(self._trace(stage))
            yield tick

    @contextlib.contextmanager
    def _trace(self, stage: str) -> Iterator[None]:
        assert self._directory is not None
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # no trace of every Python call; steps are annotated by name
        jax.profiler.start_trace(self._directory / stage, create_perfetto_trace=True, profiler_options=options)
        try:
            yield
        finally:
            jax.profiler.stop_trace()
            newest = max((self._directory / stage).rglob("perfetto_trace.json.gz"), key=os.path.getmtime)
            self.written[stage] = newest.replace(self._directory / f"{stage}.json.gz")
