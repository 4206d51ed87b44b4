"""The paper's claims beside what was measured here: commands write `claims.json`, and the README is made of it.

In: `Claim`s. Out: `claims.json` and `README.md` in one folder. A claim measured again takes the old one's place.
"""

import argparse
import dataclasses
import functools
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import stats

from cdjax import evaluate, results

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Claim:
    """One sentence of the paper, its number, and ours with what made it."""

    experiment: str  # the folder whose command measured it
    claim: str
    paper: str
    ours: str
    ci95: tuple[float, float]  # of the number that decides whether it holds
    seeds: tuple[int, ...]
    holds: bool
    command: str
    commit: str
    hardware: str
    minutes: float
    reason: str = ""  # why it does not hold here, or what is different


def arguments(experiment: str, question: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What every experiment's command takes: `data_dir`, `workdir`, `seeds`, `tiny`, `claims`."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.paper.{experiment}", description=question)
    parser.add_argument("--data-dir", default="", help="the task's files, where it needs some")
    parser.add_argument("--workdir", type=Path, default=Path("runs/paper") / experiment, help="goes on where it was")
    parser.add_argument("--seeds", type=lambda text: tuple(map(int, text.split(","))), default=(0, 1, 2))
    parser.add_argument("--tiny", action="store_true", help="a random model: does it run? Records nothing here")
    parser.add_argument("--claims", type=Path, help="the folder of claims.json; by default the paper's own")
    found = parser.parse_args(argv)
    commit()
    found.claims = found.claims or (found.workdir if found.tiny else HERE)
    return found


def made_by(
    experiment: str, seeds: Sequence[int], seconds: Mapping[str, float], options: str = "--data-dir DIR"
) -> dict[str, Any]:
    """The fields of a `Claim` that say what made it; `seconds` is that of `results.json`, `options` the command's."""
    return {
        "experiment": experiment,
        "seeds": tuple(seeds),
        "command": f"python -m experiments.paper.{experiment} {options} --seeds {','.join(map(str, seeds))}",
        "commit": commit(),
        "hardware": hardware(),
        "minutes": round(sum(seconds.values()) / 60, 1),
    }


@functools.cache
def commit() -> str:
    """The checkout's commit when the command began: the pages that it writes change the checkout."""
    return results.commit()


def hardware() -> str:
    """The devices that jax computes on."""
    found = jax.devices()
    if found[0].platform == "cpu":
        return f"{os.cpu_count()} CPU cores, {platform.machine()}"
    return f"{len(found)} {found[0].platform}, {found[0].device_kind}"


def difference(ours: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> tuple[float, tuple[float, float]]:
    """The mean of ours - other and its 95 % interval by bootstrap over examples; both are [seeds][examples].

    The same examples must stand in both, in the same order; one seed is enough where nothing was drawn.
    """
    each = np.mean(ours, axis=0) - np.mean(other, axis=0)
    if np.ptp(each) == 0:
        return float(each[0]), (float(each[0]), float(each[0]))
    found = stats.bootstrap((each,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0))
    return float(each.mean()), (float(found.confidence_interval.low), float(found.confidence_interval.high))


def percent(rows: Sequence[Sequence[float]]) -> str:
    """The mean of grades, [seeds][examples], and Wilson's 95 % interval over examples, in percent."""
    mean = float(np.mean(rows))
    low, high = evaluate.wilson(mean, len(rows[0]))
    return f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def level(rows: Sequence[Sequence[float]], scale: float = 100) -> str:
    """The mean of [seeds][units] and its 95 % interval by bootstrap over units, `scale` times."""
    mean, (low, high) = difference(rows, np.zeros_like(rows).tolist())
    return f"{scale * mean:.1f} [{scale * low:.1f}, {scale * high:.1f}]"


def compared(
    text: str,
    paper: str,
    ours: Sequence[Sequence[float]],
    other: Sequence[Sequence[float]],
    made: Mapping[str, Any],
    *,
    least: float = 0.0,
    reason: str = "",
) -> Claim:
    """That our grades, [seeds][examples], are above the others by more than `least`, as their interval decides."""
    mean, interval = difference(ours, other)
    told = f"{100 * np.mean(ours):.1f} and {100 * np.mean(other):.1f}, a difference of {100 * mean:+.1f}"
    return Claim(claim=text, paper=paper, ours=told, ci95=interval, holds=interval[0] > least, reason=reason, **made)


def source(made: Mapping[str, Any]) -> str:
    """The last line of a page: what made it."""
    return f"`{made['command']}`, commit {made['commit']}, {made['hardware']}, {made['minutes']:g} minutes."


def record(claims: Sequence[Claim], folder: Path) -> None:
    """Adds the claims to the folder's `claims.json` and makes its `README.md` again."""
    path = folder / "claims.json"
    known = json.loads(path.read_text("utf-8")) if path.is_file() else []
    found = {(one["experiment"], one["claim"]): one for one in known}
    found |= {(one.experiment, one.claim): dataclasses.asdict(one) for one in claims}
    rows = [found[key] for key in sorted(found)]
    path.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(page(rows), encoding="utf-8")


HEAD = """# The paper's claims

*Learning by Distilling Context* (Snell, Klein and Zhong, arXiv 2209.15189), claim by claim, measured again with a small
model. Made from `claims.json`, which the commands write; each folder has the experiment and its own page.

"""
COLUMNS = ("experiment", "claim", "paper", "ours", "95 %", "seeds", "holds", "command", "commit", "hardware", "minutes")


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """All claims as one Markdown table, and under it why some do not hold."""
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    for one in rows:
        low, high = one["ci95"]
        cells = [f"[{one['experiment']}]({one['experiment']})", one["claim"], one["paper"], one["ours"]]
        cells += [f"[{low:.3g}, {high:.3g}]", ", ".join(map(str, one["seeds"])), "yes" if one["holds"] else "**no**"]
        cells += [f"`{one['command']}`", one["commit"], one["hardware"], f"{one['minutes']:g}"]
        lines.append(_line(cells))
    told = ((one["experiment"] if one["holds"] else one["claim"], one["reason"]) for one in rows if one["reason"])
    reasons = [f"- {what}: {reason}" for what, reason in dict.fromkeys(told)]
    notes = ["", "What is different, and why a claim does not hold:", "", *reasons] if reasons else []
    return HEAD + "\n".join([*lines, *notes]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
