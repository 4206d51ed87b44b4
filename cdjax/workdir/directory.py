"""A run's directory: begun once, and continued only by the same experiment on the same files."""

import hashlib
import json
import os
from pathlib import Path

from cdjax import config
from cdjax.config import Experiment, Labelled
from cdjax.errors import UserError
from cdjax.workdir.journal import Journal


def check(cfg: Experiment, workdir: Path) -> None:
    """Raises UserError if the directory holds a run of another experiment, or of files that have changed since."""
    if files := [path for path in (workdir, *workdir.parents) if path.exists() and not path.is_dir()]:
        raise UserError(f"--workdir {workdir}: {files[0]} is a file; give a directory")
    path = workdir / "config.json"
    if not path.exists():
        return
    before, now = json.loads(config.to_json(config.load_config(path))), json.loads(config.to_json(cfg))
    if set(before["seeds"]) <= set(now["seeds"]):  # more seeds only add to what is there
        before["seeds"] = now["seeds"]
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
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
    return str(journal.results().get("precision", {"dtype": cfg.dtype})["dtype"])


def labelled(cfg: Experiment) -> list[Labelled]:
    """All solved examples that the experiment asks for."""
    tuned = (cfg.teacher, *cfg.score.supervised)
    return [*cfg.replay, *(examples for training in tuned for examples in training.examples)]


def digests(cfg: Experiment) -> dict[str, str]:
    """SHA-256 of the user's own files that the experiment reads."""
    names = {
        name
        for operation in cfg.operations()
        for name in (operation.context.file, operation.student_context.file, operation.inputs.file)
    }
    names |= {examples.view.file for examples in labelled(cfg)}
    return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in sorted(names - {""})}


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
