"""The cases of the benchmark: the work, its shapes, and the peers that cdjax is compared with.

In: the names of benches or cases, and a scale. Out: `Case`s for contest.py, which sends both sides the same request.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cdjax.errors import UserError

BENCHES = {
    "sample": "answers to prompts that share a context, end to end",
    "score": "log-probabilities of given answers under a long context",
    "update": "one optimizer step on a full-vocabulary divergence from a teacher of the same size",
    "loss": "value and gradient of the divergence alone, over a large vocabulary",
    "rounds": "one distillation round: sample the teacher, pair, update the student",
}


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A program that does the work: a script of `peers/`, or cdjax with a function of work.py in its options."""

    name: str
    script: str  # "ours", or a file name in peers/ without .py
    needs: tuple[str, ...] = ()  # packages that its interpreter must have
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table: the work, cdjax's program for it, and other programs for the same work."""

    bench: str
    name: str
    shapes: dict[str, int]
    tokens: int  # processed in a repetition; 0: the figure is the time
    ours: Contestant
    others: tuple[Contestant, ...]

    @property
    def full_name(self) -> str:
        return f"{self.bench}/{self.name}"


# `rows` x `length` is an update without a context; `loss` is rows, positions and vocabulary of the loss alone.
SCALES: dict[str, dict[str, Any]] = {
    "tiny": {
        "model": dict(vocab=256, embed=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp=128),
        "work": dict(batch=4, prompt=8, context=32, long=64, answer=8, rows=4, length=32),
        "loss": dict(batch=2, length=16, vocab=512),
    },
    "small": {
        "model": dict(vocab=32_000, embed=512, layers=8, heads=8, kv_heads=4, head_dim=64, mlp=1408),
        "work": dict(batch=32, prompt=16, context=512, long=2048, answer=64, rows=8, length=256),
        "loss": dict(batch=8, length=512, vocab=151_936),
    },
    "large": {
        "model": dict(vocab=151_936, embed=2048, layers=28, heads=16, kv_heads=8, head_dim=128, mlp=6144),
        "work": dict(batch=128, prompt=16, context=512, long=2048, answer=256, rows=16, length=1024),
        "loss": dict(batch=16, length=1024, vocab=151_936),
    },
}


def cases(names: Sequence[str], scale: str, dtype: str = "float32") -> list[Case]:
    """The cases of these benches ("update") and of these names ("update/all"); all cases if there are no names.

    cdjax computes in `dtype`. Raises UserError for an unknown name or scale.
    """
    if scale not in SCALES:
        raise UserError(f"there is no scale {scale!r}; there are {', '.join(SCALES)}")
    known = _all(scale, dtype)
    valid = {*BENCHES, *(case.full_name for case in known)}
    for name in names:
        if name not in valid:
            raise UserError(
                f"there is no bench {name!r}; there are {', '.join(BENCHES)}, and in them "
                f"{', '.join(case.full_name for case in known)}"
            )
    return [case for case in known if not names or {case.bench, case.full_name} & set(names)]


def against(chosen: Sequence[Case], names: Sequence[str]) -> list[Case]:
    """The cases with only the contestants whose names begin with one of `names`, as "TRL".

    Raises UserError if no contestant's name begins with one of them.
    """
    known = sorted({other.name for case in chosen for other in case.others})
    for name in names:
        if not any(contestant.startswith(name) for contestant in known):
            raise UserError(f"nobody here is called {name!r}; there are {'; '.join(known)}")
    kept = [tuple(other for other in case.others if other.name.startswith(tuple(names))) for case in chosen]
    return [dataclasses.replace(case, others=others) for case, others in zip(chosen, kept, strict=True) if others]


def _all(scale: str, dtype: str) -> list[Case]:
    sizes = SCALES[scale]
    model, work = sizes["model"], sizes["work"]
    asked = {name: work[name] for name in ("batch", "prompt", "answer")}
    shared = model | asked | {"context": work["context"]}
    long = model | asked | {"context": work["long"]}
    rows, length = work["rows"], work["length"]
    whole = model | {"batch": rows, "prompt": 1, "completion": length - 1}
    quarter = model | {"batch": rows, "prompt": length - length // 4, "completion": length // 4}
    loss = {"embed": model["embed"]} | sizes["loss"]
    answers = work["batch"] * work["answer"]

    def ours(work: str, name: str = "cdjax", **options: Any) -> Contestant:
        return Contestant(name, "ours", options={"work": work, "dtype": dtype} | options)

    return [
        Case("sample", "shared", shared, answers, ours("sample"), SAMPLERS),
        Case("sample", "long", long, answers, ours("sample"), (ours("sample", "cdjax, no context", context=False),)),
        Case(
            "sample",
            "recorded",
            shared,
            answers,
            ours("sample", record=32),
            (ours("sample", "cdjax, recording nothing"),),
        ),
        Case(
            "score",
            "long",
            long,
            answers,
            ours("score"),
            (
                ours("concatenated", "cdjax, context in every row"),
                ours("score", "cdjax, context read every time", read=True),
            ),
        ),
        Case(
            "update",
            "all",
            whole,
            rows * length,
            ours("update"),
            (ours("products", "its matrix products alone"), *UPDATERS),
        ),
        Case("update", "quarter", quarter, rows * length, ours("update"), TORCH_UPDATERS),
        Case("loss", "vocabulary", loss, 0, ours("loss"), (ours("dense_loss", "dense in JAX"), *LOSSES)),
        Case("rounds", "shared", shared, answers, ours("round"), SDFT),
        Case("rounds", "shared-full", shared, answers, ours("round", targets="full"), SDFT[:1]),
        Case("rounds", "long", long, answers, ours("round"), SDFT),
    ]


def _torch(name: str, script: str, *needs: str, **options: Any) -> Contestant:
    return Contestant(name, script, ("torch", "transformers", *needs), options)


HALF = {"dtype": "bfloat16"}
SAMPLERS = (
    _torch("transformers", "transformers_sample"),
    _torch("transformers, bfloat16", "transformers_sample", **HALF),
    _torch("transformers, prefix reused", "transformers_sample", reuse=True),
    _torch("transformers, prefix reused, bfloat16", "transformers_sample", reuse=True, **HALF),
    Contestant("Tunix", "tunix_sample", ("tunix",)),
    Contestant("Tunix, bfloat16", "tunix_sample", ("tunix",), HALF),
    Contestant("EasyDeL", "easydel_sample", ("easydel", "torch")),
)
TORCH_UPDATERS = (
    _torch("TRL GKD", "trl_gkd", "trl"),
    _torch("TRL GKD, bfloat16", "trl_gkd", "trl", **HALF),
    _torch("torch", "torch_update"),
    _torch("torch, bfloat16", "torch_update", **HALF),
)
UPDATERS = (
    *TORCH_UPDATERS,
    Contestant("Tunix", "tunix_update", ("tunix",), {"remat": "DECODER"}),
    Contestant("EasyDeL", "easydel_update", ("easydel", "torch")),
    Contestant("EasyDeL, bfloat16", "easydel_update", ("easydel", "torch"), HALF),
)
LOSSES = (
    Contestant("Liger", "liger_loss", ("torch", "liger_kernel", "triton")),
    Contestant("Liger, bfloat16", "liger_loss", ("torch", "liger_kernel", "triton"), HALF),
)
SDFT = (
    _torch("TRL sdft", "trl_sdft", "trl", "datasets"),
    _torch("TRL sdft, bfloat16", "trl_sdft", "trl", "datasets", **HALF),
)
