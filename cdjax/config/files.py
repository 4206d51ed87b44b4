"""An experiment read from a file, changed, and written: Python with `get_config()`, or a run's `config.json`."""

import json
import runpy
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdjax import parts
from cdjax.config import read
from cdjax.config.experiment import Experiment
from cdjax.errors import UserError

# Fields of an experiment that have another place since operations, trainings and devices are parts of it.
MOVED = {
    "task": "operations.0.task",
    "inputs": "operations.0.inputs",
    "context": "operations.0.context",
    "student_context": "operations.0.student_context",
    "keep": "operations.0.keep",
    "teacher": "teachers.0.training",
    "start": "training.start, which is 'model' unless it is given",
    "replay": "training.sources, as a source of kind 'written'",
    "source": "training.sources",
    "sampling": "training.sampling",
    "targets": "training.targets",
    "objective": "training.targets and training.losses",
    "losses": "training.losses",
    "adapter": "student",
    "optim": "training.optim",
    "update": "training.update",
    "tune": "training.tune",
    "mesh": "devices.mesh",
    "dtype": "devices.dtype",
    "remat": "devices.remat",
    "plan.operations": "operations",
    "score.baseline": "baselines, see config.gradient_descent",
    "score.supervised": "baselines",
}


def load_config(path: str | Path) -> Experiment:
    """The Experiment of a Python file with `get_config()`, or of a run's `config.json`; its types are checked.

    Raises UserError for a file that is not there, fails, or was written by an older version.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no config file {path}")
    if path.suffix == ".json":
        try:
            return from_json(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8 text") from None
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    try:
        made = runpy.run_path(str(path))["get_config"]()
    except UserError:
        raise
    except KeyError as error:
        if error.args != ("get_config",):
            raise UserError(_blame(path, error)) from error
        raise UserError(f"{path} has no get_config(); define one that returns a cdjax.Experiment") from None
    except Exception as error:  # whatever a user's file does wrong is the user's to see, at the line where it happened
        raise UserError(_blame(path, error)) from error
    if not isinstance(made, Experiment):
        raise UserError(f"get_config() in {path} must return a cdjax.Experiment, got a {type(made).__name__}")
    return read.convert(Experiment, made, "")


def override(cfg: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """A copy with `{"training.optim.lr": 3e-5, "operations.0.name": "first"}` set, in that order.

    A value may be text as on the command line. A dict stands for a whole part: what it leaves out takes its default.
    """
    for path, value in changes.items():
        for old, new in MOVED.items():
            if f"{path}.".startswith(f"{old}."):
                raise UserError(f"{old} is now {new}: an experiment has no field {path!r}")
        cfg = read.assign(Experiment, cfg, path.split("."), value)
    return cfg


def to_json(cfg: Experiment) -> str:
    """Every field, defaults included, as indented JSON."""
    return json.dumps(parts.plain(cfg), indent=2, ensure_ascii=False)


def from_json(text: str) -> Experiment:
    """The inverse of `to_json`; fields that are left out take their defaults."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"an experiment must be JSON, and this is not: {error}") from None
    names = list(fields) if isinstance(fields, dict) else []
    names += [f"{name}.{inner}" for name in names if isinstance(fields[name], dict) for inner in fields[name]]
    if old := [name for name in names if name in MOVED]:
        moved = "; ".join(f"{name} is now {MOVED[name]}" for name in old)
        raise UserError(f"this experiment was written by an older cdjax, whose fields have moved: {moved}")
    return read.convert(Experiment, fields, "")


def _blame(path: Path, error: Exception) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line, said = (lines or [1])[-1], str(error)
    if isinstance(error, SyntaxError):
        line, said = error.lineno, error.msg
    return f"{path}, line {line}: {type(error).__name__}: {' '.join(said.split())}"
