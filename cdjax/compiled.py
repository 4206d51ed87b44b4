"""Compiled programs on disk, for later runs.

In: the environment. Out: the settings of jax's persistent compilation cache.
"""

import os
import sys
import tempfile
from pathlib import Path

import jax

BYTES = 4 << 30  # size of the cache at most; the least recently used programs are deleted first


def keep() -> None:
    """Has jax keep every compiled program in $CDJAX_CACHE/xla (default ~/.cache/cdjax/xla).

    A directory that was chosen before, by JAX_COMPILATION_CACHE_DIR or in the program, is not changed. If the directory
    cannot be written, no program is kept, and a line on stderr says so.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    try:
        path = root() / "xla"
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except (OSError, RuntimeError) as error:
        sys.stderr.write(f"compiled programs are not kept ({error}); set CDJAX_CACHE to a directory for them\n")
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_compilation_cache_max_size", BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def root() -> Path:
    """The cache directory: $CDJAX_CACHE, or `cdjax` in the user's cache directory."""
    if chosen := os.environ.get("CDJAX_CACHE"):
        return Path(chosen)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "cdjax"
