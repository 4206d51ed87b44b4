"""An experiment as data, and the functions that read, change, check and write it.

All parts that an experiment may be composed of are attributes of this module, such as `config.HeldOutKL`.
"""

from typing import Any

from cdjax.config.experiment import (
    Baseline,
    Devices,
    Experiment,
    Limits,
    Mesh,
    Plan,
    Score,
    Teacher,
    gradient_descent,
)
from cdjax.config.files import from_json, load_config, override, to_json
from cdjax.errors import UserError
from cdjax.learn import Optim
from cdjax.learn.training import Training, Tune, supervised
from cdjax.lessons import Update
from cdjax.lessons.filters import FILTERS
from cdjax.lessons.keep import Keep
from cdjax.lessons.labelled import Labelled
from cdjax.lessons.operation import Operation
from cdjax.lessons.sources import SOURCES
from cdjax.losses import LOSSES
from cdjax.sampling import Sampling
from cdjax.sampling.targets import TARGETS
from cdjax.score.measures import MEASURES
from cdjax.students import STUDENTS
from cdjax.tasks.inputs import Inputs
from cdjax.tasks.task import Demonstration
from cdjax.views.context import DEFINITION, Context, Template
from cdjax.views.select import SELECTORS

__all__ = [
    "DEFINITION",
    "Baseline",
    "Context",
    "Demonstration",
    "Devices",
    "Experiment",
    "Inputs",
    "Keep",
    "Labelled",
    "Limits",
    "Mesh",
    "Operation",
    "Optim",
    "Plan",
    "Sampling",
    "Score",
    "Teacher",
    "Template",
    "Training",
    "Tune",
    "Update",
    "UserError",
    "from_json",
    "gradient_descent",
    "load_config",
    "override",
    "supervised",
    "to_json",
]

REGISTRIES = (STUDENTS, FILTERS, LOSSES, MEASURES, SELECTORS, SOURCES, TARGETS)


def __getattr__(name: str) -> Any:
    for kinds in REGISTRIES:
        if (part := kinds.named(name)) is not None:
            return part
    raise AttributeError(f"module 'cdjax.config' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for kinds in REGISTRIES for name in kinds.class_names())})
