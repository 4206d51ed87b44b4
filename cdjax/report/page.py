"""A run directory -> a page for people, and a row of a table.

In: config.json, metrics.jsonl, results.json, examples.json; sections of missing files are left out. Out: report.html,
which needs no other file and no network. `report.jinja` is the page's template, `plots.py` draws its figures.
"""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from cdjax import config
from cdjax.errors import UserError
from cdjax.report import plots
from cdjax.workdir import metrics

OTHERS = {"baseline", "teacher"}  # what a line of metrics names that is not of the student
ORDER = ("teacher", "before", "after", "gradient_descent")
PAGE = "report.html"
COLUMNS = ("input", "expected", "teacher", "before", "after")


@dataclasses.dataclass(frozen=True)
class Run:
    """The contents of a run directory."""

    directory: Path
    cfg: dict[str, Any]
    metrics: list[dict[str, Any]]
    results: dict[str, Any]  # empty until the run has ended
    examples: list[dict[str, str]]

    @property
    def scores(self) -> dict[str, Any]:
        """The entries of `scores`: teacher, before, after, then the baselines."""
        entries = self.results.get("scores") or {}
        return {name: entries[name] for name in (*ORDER, *sorted(set(entries) - set(ORDER))) if entries.get(name)}


class Tile(NamedTuple):
    """A large number at the top of the page."""

    name: str
    value: str
    note: str


def read(workdir: str | Path) -> Run:
    """The contents of a run directory. Raises UserError if it is not one, or if a file is damaged."""
    directory = Path(workdir)
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory} is not a run directory: it has no config.json")

    def load(name: str, otherwise: Any) -> Any:
        path = directory / name
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise
        except json.JSONDecodeError as error:
            raise UserError(f"{path} is not JSON: {error}") from None

    lines = metrics.read(directory / "metrics.jsonl")
    return Run(directory, load("config.json", {}), lines, load("results.json", {}), load("examples.json", []))


def write(workdir: str | Path) -> Path:
    """Writes report.html into a run directory, whether the run has ended or not; returns its path."""
    run = read(workdir)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["spaced"] = _spaced
    page = environment.get_template("report.jinja").render(
        run=run,
        facts=_facts(run),
        tiles=list(_tiles(run)),
        sentences=list(_sentences(run.scores)),
        scores=Markup(plots.scores(run.scores)) if run.scores else "",
        rounds=_rounds(run.results.get("segments") or {}, run.results.get("rounds") or []),
        scores_note=_scores_note(run.scores),
        curves=_curves(run),
        share=lambda count: round(100 * count / max(run.results["rollouts"]["sampled"], 1), 1),
        cards=dict(_cards(run.results)),
        columns=[name for name in COLUMNS if any(example.get(name) for example in run.examples)],
        changed=_changed(run.cfg),
        whole=json.dumps(run.cfg, indent=2, ensure_ascii=False),
    )
    path = run.directory / PAGE
    path.write_text(page, encoding="utf-8")
    return path


def table(workdirs: Sequence[str | Path]) -> str:
    """An aligned Markdown table with a row for each run: scores with intervals, the gap closed, tokens and minutes."""
    runs = [read(workdir) for workdir in workdirs]
    names = Counter(run.cfg["name"] for run in runs)
    rows = [_row(run) | ({"run": str(run.directory)} if names[run.cfg["name"]] > 1 else {}) for run in runs]
    header = list(dict.fromkeys(name for row in rows for name in row))
    cells = [header, *([row.get(name, "-") for name in header] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def gap_closed(scores: Mapping[str, Mapping[str, Any]]) -> float | None:
    """(after - before) / (teacher - before); None if the teacher does not score above before."""
    if not {"teacher", "before", "after"} <= set(scores):
        return None
    teacher, before, after = (scores[name]["mean"] for name in ("teacher", "before", "after"))
    return (after - before) / (teacher - before) if teacher > before else None


def _row(run: Run) -> dict[str, str]:
    row = {"run": run.cfg["name"]}
    for name, entry in run.scores.items():
        low, high = entry["ci95"]
        row["metric"] = f"{entry['metric']}, n={entry['n']}, {_count(len(entry['per_seed']), 'seed')}"
        row[name.replace("_", " ")] = f"{entry['mean']:.3f} [{low:.3f}, {high:.3f}]{_magnitude(entry)}"
    if (gap := gap_closed(run.scores)) is not None:
        row["gap closed"] = f"{100 * gap:.0f} %"
    if tokens := run.results.get("tokens_per_request"):
        row["tokens a request"] = f"{tokens['teacher']:.0f} -> {tokens['student']:.0f}"
    if seconds := run.results.get("seconds"):
        row["minutes"] = f"{sum(seconds.values()) / 60:.1f}"
    return row


def _magnitude(entry: Mapping[str, Any]) -> str:
    """The mean magnitude as text, see `score.preference`; empty if no example rejects an answer."""
    return f", magnitude {entry['magnitude']:+.1f}" if "magnitude" in entry else ""


def _facts(run: Run) -> dict[str, str]:
    versions = run.results.get("versions") or {}
    return {
        "model": run.cfg["model"],
        "task": ", ".join(dict.fromkeys(operation["task"] for operation in run.cfg.get("operations", ()))),
        "seeds": ", ".join(map(str, run.cfg.get("seeds", ()))),
        "commit": run.results.get("commit", ""),
        "with": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _tiles(run: Run) -> Iterator[Tile]:
    for name, entry in run.scores.items():
        yield Tile(name, f"{entry['mean']:.2f}", entry["metric"] + _magnitude(entry))
    if (gap := gap_closed(run.scores)) is not None:
        yield Tile("gap_closed", f"{100 * gap:.0f} %", "from before to teacher")
    if tokens := run.results.get("tokens_per_request"):
        saved = 100 * (1 - tokens["student"] / tokens["teacher"])
        yield Tile("tokens_saved", f"{saved:.0f} %", f"{tokens['teacher']:.0f} → {tokens['student']:.0f} a request")


def _sentences(scores: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if {"teacher", "before"} <= set(scores):
        teacher, before = (scores[name]["mean"] for name in ("teacher", "before"))
        yield f"With the context in its prompt the model scores {teacher:.3f}, without it {before:.3f}."
    if "after" in scores:
        after = scores["after"]["mean"]
        yield f"The student, which learned from the model's own answers, scores {after:.3f} without it."
    else:
        yield "This run has not ended yet; what it has measured so far is below."
    if {"after", "gradient_descent"} <= set(scores):
        after, descent = scores["after"], scores["gradient_descent"]
        apart = after["ci95"][0] > descent["ci95"][1] or descent["ci95"][0] > after["ci95"][1]
        yield f"Gradient descent on the demonstrations themselves reaches {descent['mean']:.3f};"
        yield "the two intervals do not overlap." if apart else "the two intervals overlap."


def _scores_note(scores: Mapping[str, Mapping[str, Any]]) -> str:
    for entry in scores.values():
        seeds = len(entry["per_seed"])
        dots = f"; a dot for each of {seeds} seeds" if seeds > 1 else ""
        return f"{entry['metric']} on {entry['n']} test examples, mean and 95 % interval{dots}"
    return ""


def _rounds(segments: Mapping[str, Any], summaries: Sequence[Mapping[str, Any]]) -> Markup:
    """A figure of the student's scores inside and after every round; empty for a single one."""
    entries = {**segments} | {f"round {number}": entry for number, entry in enumerate(summaries)}
    return Markup(plots.scores(entries)) if len(entries) > 1 else Markup("")


def _curves(run: Run) -> Markup:
    chosen = {stage: f"update, lr {point['lr']:g}" for stage, point in (run.results.get("chosen") or {}).items()}

    def stage(line: Mapping[str, Any]) -> str:
        return chosen.get(f"seed {line.get('seed')}/round {line.get('round')}", "update")

    lines = [
        line for line in run.metrics if "step" in line and not OTHERS & line.keys() and line.get("stage") == stage(line)
    ]
    return Markup(plots.curves(lines)) if lines else Markup("")


def _cards(results: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yields small tables: a title, and names with their numbers."""
    seconds = results.get("seconds") or {}
    kinds = {"Tokens a request": (results.get("tokens_per_request"), "{:,.1f}")}
    for measure in (results.get("measures") or {}).values():
        stages = {name: entry for name, entry in measure.items() if name != "title"}
        units = {entry["metric"] for entry in stages.values()}
        means = {name: entry["mean"] for name, entry in stages.items()}
        kinds[", ".join([measure["title"], *units])] = (means, "{:.4f}")
    kinds |= {
        "Acceptance: drafts of the student that stood": (results.get("acceptance"), "{:.3f}"),
        "Chosen on validation examples": (results.get("chosen"), "{:g}"),
        f"Seconds, {sum(seconds.values()):,.0f} in all": (seconds, "{:,.1f}"),
    }
    for title, (values, form) in kinds.items():
        if rows := [(name, form.format(value)) for name, value in _flat(values or {}) if value is not None]:
            yield title, rows


def _changed(cfg: Mapping[str, Any]) -> dict[str, str]:
    """The fields that differ from their defaults, as dotted names and JSON."""
    one_of_each = config.Experiment(
        "",
        "",
        (config.Operation(),),
        teachers=(config.Teacher(training=config.Training()),),
        baselines=(config.Baseline("", config.Training()),),
    )
    usual = dict(_flat(json.loads(config.to_json(one_of_each))))
    usual |= {f"teachers.0.{name}": None for name in ("training", "trains", "template")}
    first = {name: re.sub(r"\.\d+\.", ".0.", name) for name, _ in _flat(cfg)}
    unusual = {name: value for name, value in _flat(cfg) if value != usual.get(first[name], ...)}
    return {name: json.dumps(value, ensure_ascii=False) for name, value in unusual.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested dicts, and lists of them, as dotted names; a list of anything else, or of parts, is one value."""
    for name, value in values.items():
        records = isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value)
        if records and not any("kind" in entry for entry in value):
            value = {str(number): entry for number, entry in enumerate(value)}
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _spaced(name: str) -> str:
    return name.replace("_", " ").replace(".", ", ")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
