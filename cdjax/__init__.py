"""Context distillation in JAX: a model learns to do without its prompt.

The names that a notebook needs. Those that need jax are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cdjax.config import Context, Demonstration, Experiment, Inputs, Operation, Plan, load_config, override
from cdjax.errors import UserError

if TYPE_CHECKING:
    from cdjax.distill.rounds import export, run
    from cdjax.language_model import load_model

LATE = {"export": "cdjax.distill.rounds", "load_model": "cdjax.language_model", "run": "cdjax.distill.rounds"}

__all__ = [
    "Context",
    "Demonstration",
    "Experiment",
    "Inputs",
    "Operation",
    "Plan",
    "UserError",
    "export",
    "load_config",
    "load_model",
    "override",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in LATE:
        raise AttributeError(f"module 'cdjax' has no attribute {name!r}")
    return getattr(importlib.import_module(LATE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
