"""A run's directory: begun once, and continued only by the same experiment on the same files."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdjax import config
from cdjax.config import Experiment
from cdjax.errors import UserError
from cdjax.workdir.journal import Journal


def check(cfg: Experiment, workdir: Path) -> None:
    """Raises UserError if the directory holds a run of another experiment, or of files that have changed since."""
    if files := [path for path in (workdir, *workdir.parents) if path.exists() and not path.is_dir()]:
        raise UserError(f"--workdir {workdir}: {files[0]} is a file; give a directory")
    path = workdir / "config.json"
    if not path.exists():
        return
    try:
        saved = config.load_config(path)
    except UserError as error:
        raise UserError(f"{error}; give another --workdir, or delete that directory") from None
    before, now = json.loads(config.to_json(saved)), json.loads(config.to_json(cfg))
    if set(before["seeds"]) <= set(now["seeds"]):  # more seeds only add to what is there
        before["seeds"] = now["seeds"]
    old, new = dict(_leaves(before)), dict(_leaves(now))
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name, ...) != new.get(name, ...))
    if changed:
        raise UserError(
            f"{workdir} holds a run of another experiment: {', '.join(changed)} differ from its config.json; "
            "give another --workdir, or delete that directory"
        )
    path = workdir / "files.json"
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    edited = sorted(name for name, digest in digests(cfg).items() if known.get(name, digest) != digest)
    if edited:
        raise UserError(
            f"{workdir} holds a run that read {', '.join(edited)} before it was changed; "
            "give another --workdir, or change the file back"
        )


def begin(cfg: Experiment, workdir: Path) -> None:
    """Writes down the experiment and the digests of the files that it reads."""
    workdir.mkdir(parents=True, exist_ok=True)
    _write(workdir / "files.json", json.dumps(digests(cfg), indent=2))
    _write(workdir / "config.json", config.to_json(cfg))


def dtype(cfg: Experiment, journal: Journal) -> str:
    """What the run computes in: the config's choice, or for "auto" what was measured when it began."""
    return str(journal.results().get("precision", {"dtype": cfg.devices.dtype})["dtype"])


def digests(cfg: Experiment) -> dict[str, str]:
    """SHA-256 of the user's own files that the experiment reads; of a directory, of all the files in it."""
    return {name: _digest(Path(name)) for name in sorted(set(files(cfg)) - {""})}


def files(part: Any) -> Iterator[str]:
    """Every `file` that a part of the experiment names, and what else it says that it reads."""
    if hasattr(part, "files"):
        yield from part.files()
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.name == "file":
            yield value
        for entry in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(entry):
                yield from files(entry)


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every value inside dictionaries and lists, with its dotted path; an empty one is a value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        yield from _leaves(entry, f"{where}.{name}" if where else str(name))
    if not entries:
        yield where, value


def _digest(path: Path) -> str:
    read = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(file.read_bytes() for file in read)).hexdigest()


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
