"""The paper's claims beside what was measured here: commands write `claims.json`, and the README is made of it.

In: `Claim`s. Out: `claims.json` and `README.md` in one folder. A claim measured again takes the old one's place.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import stats

from cdjax.errors import UserError
from cdjax.score import summary
from cdjax.workdir import journal

HERE = Path(__file__).parent
RESAMPLES = 5000
TRIAL = "*A trial of a random model (`--tiny`): its numbers mean nothing; what is said of them is of other runs.*\n\n"


@dataclasses.dataclass(frozen=True)
class Claim:
    """One sentence of the paper, its number, and ours with what made it."""

    experiment: str  # the folder whose command measured it
    claim: str
    paper: str
    ours: str
    ci95: tuple[float, float]  # of the number that decides whether it holds, in points of 100 where that is a share
    seeds: tuple[int, ...]
    holds: bool
    command: str
    commit: str
    hardware: str
    minutes: float
    reason: str = ""  # why it does not hold here, or what is different


def arguments(
    experiment: str,
    question: str,
    argv: Sequence[str] | None = None,
    *,
    seeds: Sequence[int] = (0, 1),
    files: bool = True,
    own: Sequence[argparse.ArgumentParser] = (),
) -> argparse.Namespace:
    """What an experiment's command takes: `workdir`, `seeds`, `tiny`, `claims`, and `data_dir` if it reads `files`.

    `seeds` are those of its page, `own` has what only this command takes. `out` is the folder of the page, which lies
    beside `claims.json`. Raises UserError where the page could not be left at the end.
    """
    name = f"python -m experiments.paper.{experiment}"
    parser = argparse.ArgumentParser(prog=name, description=question, parents=own)
    if files:
        parser.add_argument("--data-dir", default="", help="the folder with the tasks' files, of which DATA.md tells")
    parser.add_argument("--workdir", type=Path, help=f"goes on where it was; runs/paper/{experiment} if not said")
    parser.add_argument("--seeds", type=numbers, default=tuple(seeds), help="separated by commas")
    parser.add_argument("--tiny", action="store_true", help="a random model: does it run? Records nothing here")
    parser.add_argument("--claims", type=Path, help="where claims.json and the page go; experiments/paper if not said")
    found = parser.parse_args(argv)
    if files and not (found.tiny or found.data_dir):
        parser.error("--data-dir is needed, the folder with the tasks' files: experiments/paper/DATA.md tells of them")
    journal.commit()  # before the pages that this writes change the checkout
    found.workdir = found.workdir or Path("runs/paper/tiny" if found.tiny else "runs/paper") / experiment
    found.claims = found.claims or (found.workdir if found.tiny else HERE)
    found.out = found.workdir if found.tiny else found.claims / experiment
    try:
        found.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot leave the page in {error.filename}: {error.strerror}; give a folder") from None
    _known(found.claims)
    return found


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers that are separated by commas, no two of them the same."""
    found = tuple(map(int, text.split(",")))
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text}: every number once")
    return found


def command(main: Callable[[], Any]) -> None:
    """Runs an experiment's `main`; what a user can mend is told in a line and not as a traceback."""
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


def made_by(
    experiment: str, seeds: Sequence[int], runs: Sequence[Mapping[str, Any]], options: str = "--data-dir DIR"
) -> dict[str, Any]:
    """The fields of a `Claim` that say what made it: `commit` and `seconds` of `runs` are as in `results.json`."""
    commits = dict.fromkeys(one for run in runs for one in run["commit"].split(", ") if one)
    return {
        "experiment": experiment,
        "seeds": tuple(seeds),
        "command": f"python -m experiments.paper.{experiment} {options} --seeds {','.join(map(str, seeds))}",
        "commit": ", ".join(commits),
        "hardware": hardware(),
        "minutes": round(sum(sum(run["seconds"].values()) for run in runs) / 60, 1),
    }


def hardware() -> str:
    """The devices that jax computes on."""
    found = jax.devices()
    if found[0].platform == "cpu":
        return f"{os.cpu_count()} CPU cores, {platform.machine()}"
    return f"{len(found)} {found[0].platform}, {found[0].device_kind}"


def difference(ours: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> tuple[float, tuple[float, float]]:
    """The mean of ours - other and its 95 % interval, by bootstrap over seeds and over examples, both at once.

    Both are [seeds][examples], of the same seeds and examples in the same order; a side that is the same for every seed
    may have one row. The pigeonhole bootstrap (Owen 2007, doi 10.1214/07-AOAS122): rows and columns are each drawn with
    replacement. It is too narrow where there are few of them, so that the interval is no narrower than `students_t`
    over examples, nor than that over seeds from three seeds on. Two tell little of what another would have brought.
    """
    each = np.subtract(ours, other)
    rng, size = np.random.default_rng(0), len(each)
    seeds = rng.integers(size, size=(RESAMPLES, size))
    examples = rng.integers(each.shape[1], size=(RESAMPLES, each.shape[1]))
    means = [each[rows][:, columns].mean() for rows, columns in zip(seeds, examples, strict=True)]
    ends = [tuple(np.percentile(means, (2.5, 97.5)))]
    ends += [students_t(units)[1] for units in (each.mean(0), each.mean(1)) if len(units) > 2]
    lows, highs = zip(*ends, strict=True)
    return float(each.mean()), (float(min(lows)), float(max(highs)))


def students_t(values: Sequence[float] | np.ndarray) -> tuple[float, tuple[float, float]]:
    """The mean and its 95 % interval by Student's t; one value alone has none that ends."""
    mean, half = float(np.mean(values)), math.inf
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean, (mean - half, mean + half)


def level(rows: Sequence[Sequence[float]], scale: float = 100) -> str:
    """The mean of [seeds][examples] and its 95 % interval as `difference` has it, `scale` times."""
    return _interval(*difference(rows, np.zeros_like(rows).tolist()), scale)


def share(rows: Sequence[Sequence[float]]) -> tuple[float, tuple[float, float]]:
    """The share that is right of [seeds][examples], and its 95 % interval.

    That of `difference` within 0 and 1, or Wilson's over examples where this is wider: near 0 and 1 grades that were
    seen have no spread.
    """
    mean, drawn = difference(rows, np.zeros_like(rows).tolist())
    lows, highs = zip(drawn, summary.wilson(mean, len(rows[0])), strict=True)
    return mean, (max(0.0, min(lows)), min(1.0, max(highs)))


def percent(rows: Sequence[Sequence[float]]) -> str:
    """`share`, in percent."""
    return _interval(*share(rows), 100)


def _interval(mean: float, interval: tuple[float, float], scale: float) -> str:
    low, high = interval
    return f"{scale * mean:.1f} [{scale * low:.1f}, {scale * high:.1f}]"


def compared(
    text: str,
    paper: str,
    ours: Sequence[Sequence[float]],
    other: Sequence[Sequence[float]],
    made: Mapping[str, Any],
    *,
    least: float = 0.0,
    reason: str,
) -> Claim:
    """That our grades, [seeds][examples], are above the others by more than `least` points of 100 in all the interval.

    `reason` is what differs from the paper.
    """
    mean, (low, high) = difference(ours, other)
    told = f"{100 * np.mean(ours):.1f} and {100 * np.mean(other):.1f}, a difference of {100 * mean:+.1f}"
    interval = 100 * low, 100 * high
    return Claim(claim=text, paper=paper, ours=told, ci95=interval, holds=interval[0] > least, reason=reason, **made)


def source(made: Mapping[str, Any]) -> str:
    """The last line of a page: what made it."""
    return f"`{made['command']}`, commit {made['commit']}, {made['hardware']}, {made['minutes']:g} minutes."


def publish(
    args: argparse.Namespace,
    text: str,
    claims: Sequence[Claim],
    name: str = "results.md",
    plots: Mapping[str, str] | None = None,
) -> None:
    """Prints an experiment's page and leaves it in `out` with its plots, name -> SVG; records its claims.

    The page of `tiny` says that it means nothing: its experiment has words about what others measured.
    """
    text = TRIAL + text if args.tiny else text
    print(text)
    for file, content in {name: text, **(plots or {})}.items():
        (args.out / file).write_text(content, encoding="utf-8")
    record(claims, args.claims)


def record(claims: Sequence[Claim], folder: Path) -> None:
    """Puts the claims in the place of those that the same command left in `claims.json`; makes `README.md` again."""
    folder.mkdir(parents=True, exist_ok=True)
    path, known = folder / "claims.json", _known(folder)
    found = [dataclasses.asdict(one) for one in claims]
    again = {_asked(one) for one in found}
    rows = sorted(
        [one for one in known if _asked(one) not in again] + found, key=lambda one: (one["experiment"], one["claim"])
    )
    part = path.with_suffix(".part")
    part.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
    (folder / "README.md").write_text(page(rows), encoding="utf-8")


def _known(folder: Path) -> list[dict[str, Any]]:
    """The claims that `claims.json` has."""
    path = folder / "claims.json"
    try:
        return json.loads(path.read_text("utf-8")) if path.is_file() else []
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); mend it, or move it away") from None


def _asked(claim: Mapping[str, Any]) -> str:
    """Its command without the seeds."""
    return claim["command"].rpartition(" --seeds ")[0]


HEAD = """# The paper's claims

*Learning by Distilling Context* (Snell, Klein and Zhong, arXiv 2209.15189), claim by claim, measured again with a small
model. Made from `claims.json`, which the commands write; each folder has the experiment and its own page, and
[DATA.md](DATA.md) says what DIR holds. "95 %" is the interval of the number that decides, in points of 100 where that
is a share: by bootstrap over seeds and over test examples, or over tasks, facts or students where these are the unit.
That of a difference is no narrower than Student's t over any of these of which there are three or more (this was added
after the runs); that of a ratio or a correlation is the bootstrap's, and tokens that are counted have none. It is about
the tasks that were measured and no others. "At most 5 points under the teacher" is decided by the mean. Minutes are
those of teaching, answering and scoring, without a judge's; runs that questions share count for each.

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
    reasons = [f"- {what}: {reason}" for what, reason in dict.fromkeys(_reasons(rows))]
    notes = ["", "What is different, and why a claim does not hold:", "", *reasons] if reasons else []
    return HEAD + "\n".join([*lines, *notes]) + "\n"


def _reasons(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Every reason and whose it is: a claim's, or the experiment's if all its claims that hold have this one."""
    for one in rows:
        shared = {other["reason"] for other in rows if other["experiment"] == one["experiment"] and other["holds"]}
        if one["reason"]:
            yield one["experiment"] if one["holds"] and len(shared) == 1 else one["claim"], one["reason"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
