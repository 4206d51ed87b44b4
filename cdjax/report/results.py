"""The journal of a finished run -> results.json and examples.json, with what made them: commits and versions."""

import importlib.metadata
import json
import platform
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdjax import config
from cdjax.score.summary import COLUMNS, Graded, summary
from cdjax.workdir import directory
from cdjax.workdir.journal import Journal

SHOWN = 20  # examples side by side in the report
LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "transformers")


def write(cfg: config.Experiment, metric: str, journal: Journal, workdir: Path) -> dict[str, Any]:
    """Writes both files and returns what is in results.json."""
    stages = journal.results()
    graded = {name: [of_operations(stages[name], cfg.scored(-1))] for name in ("teacher", "before")}
    scored = by_round(cfg, stages)
    inside, last = by_segment(stages), (scored or [[]])[-1]
    if last:
        graded["after"] = last
    for name in (baseline.name for baseline in cfg.baselines):
        places = [f"seed {seed}/baseline {name}/score" for seed in cfg.seeds]
        if trained := [stages[place] for place in places if place in stages]:
            graded[name] = trained
    of_student = {name: stage for name, stage in stages.items() if "/baseline " not in name}
    results = {
        "experiment": cfg.name,
        "commit": ", ".join(journal.commits()),
        "versions": versions(),
        "dtype": directory.dtype(cfg, journal),
        "seeds": list(cfg.seeds),
        "scores": {name: summarize(metric, by_seed) for name, by_seed in graded.items()},
        "tokens_per_request": {
            "teacher": stages["teacher"]["tokens"],
            "student": mean(last or graded["before"], "tokens"),
        },
        "inputs": inputs(of_student),
        "rollouts": rollouts(of_student),
        "measures": measures(cfg, stages["before"], inside, scored),
        "segments": {name: summarize(metric, by_seed) for name, by_seed in inside.items()},
        "rounds": [summarize(metric, by_seed) for by_seed in scored],
        "seconds": seconds(journal),
    }
    searches = {name: stage for name, stage in stages.items() if name.endswith("/update") and "chosen" in stage}
    if chosen := {name.removesuffix("/update"): stage["chosen"] for name, stage in searches.items()}:
        results["chosen"] = chosen
    if cfg.training.sampling.draft:
        results["acceptance"] = acceptance(of_student)
    columns = {"input": graded["teacher"][0]["inputs"], "expected": graded["teacher"][0]["expected"]}
    columns |= {name: graded[name][0]["answers"] for name in ("teacher", "before", "after") if name in graded}
    examples = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    _save(workdir / "examples.json", examples[:SHOWN])
    _save(workdir / "results.json", results)
    return results


def summarize(metric: str, by_seed: list[dict[str, Any]]) -> dict[str, Any]:
    """An entry of `scores`, from each seed's result of `Exam.grade`."""
    return summary(metric, [seed["grades"] for seed in by_seed], [seed.get("magnitudes", []) for seed in by_seed])


def by_round(cfg: config.Experiment, stages: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The graded students of every round, [rounds][seeds]."""
    rounds: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for seed in cfg.seeds:
        for number in range(len(stages)):
            if (name := f"seed {seed}/round {number}/score") in stages:
                rounds[number].append(stages[name])
    return [rounds[number] for number in sorted(rounds)]


def by_segment(stages: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The graded students inside rounds, by "round R, segment S"; the last segment's score is the round's."""
    segments: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, stage in stages.items():
        if place := re.fullmatch(r"seed \d+/(round \d+)/(segment \d+)/score", name):
            segments[", ".join(place.groups())].append(stage)
    return dict(segments)


def of_operations(graded: Graded, operations: Sequence[int]) -> Graded:
    """The rows of these operations."""
    rows = [row for row, number in enumerate(graded["operations"]) if number in operations]
    return graded | {name: [graded[name][row] for row in rows] for name in (*COLUMNS, "magnitudes") if name in graded}


def measures(
    cfg: config.Experiment, before: Graded, inside: dict[str, list[Graded]], scored: list[list[Graded]]
) -> dict[str, Any]:
    """Every measure of the student before, inside and after each round, over seeds; `after` is the last round."""
    students = {"before": [before]} | inside
    students |= {f"round {number}": by_seed for number, by_seed in enumerate(scored)}
    if scored:
        students["after"] = scored[-1]
    entries: dict[str, Any] = {}
    for measure in cfg.score.measures:
        values = {name: [seed["measures"].get(measure.kind) for seed in seeds] for name, seeds in students.items()}
        entries[measure.kind] = {"title": measure.title} | {
            name: measured(by_seed) for name, by_seed in values.items() if None not in by_seed
        }
    return entries


def measured(by_seed: list[dict[str, Any]]) -> dict[str, Any]:
    """A measure's mean over seeds, with an interval where it has a grade for each example."""
    unit = by_seed[0]["unit"]
    if all("grades" in value for value in by_seed):
        return summary(unit, [value["grades"] for value in by_seed])
    per_seed = [value["mean"] for value in by_seed]
    known = [mean for mean in per_seed if mean is not None]
    return {"metric": unit, "mean": float(np.mean(known)) if known else None, "per_seed": per_seed}


def inputs(stages: dict[str, Any]) -> dict[str, int]:
    """Counts of task inputs over all seeds, rounds and operations: by origin, and by the reason to leave one out."""
    counts: Counter[str] = Counter(test_over_budget=stages["teacher"]["over_budget"])
    for name, result in stages.items():
        if name.endswith("/inputs"):
            counts.update(result)
        if name.endswith("/sample"):
            counts["over_budget"] += result["over_budget"]
    return dict(counts)


def rollouts(stages: dict[str, Any]) -> dict[str, Any]:
    """Counts of the teacher's samples over all seeds, rounds and operations: sampled == kept + the sum of dropped.

    `int8_kl` has for each round KL(teacher || its int8 weights, which answered), in nats a token.
    """
    kept = [result for name, result in stages.items() if name.endswith("/keep")]
    int8 = [result["int8_kl"] for name, result in stages.items() if name.endswith("/sample") and "int8_kl" in result]
    return {
        "sampled": sum(result["sampled"] for name, result in stages.items() if name.endswith("/sample")),
        "kept": sum(result["kept"] for result in kept),
        "dropped": dict(sum((Counter(result["dropped"]) for result in kept), Counter())),
    } | ({"int8_kl": int8} if int8 else {})


def acceptance(stages: dict[str, Any]) -> dict[str, float]:
    """The share of the student's drafts that the teacher accepted in each round, over all seeds and operations."""
    drafts: dict[str, Counter[str]] = defaultdict(Counter)
    for name, result in stages.items():
        if name.endswith("/sample"):
            drafts[name.split("/")[1]].update(result)
    return {
        name: counts["accepted"] / max(1, counts["accepted"] + counts["refused"])
        for name, counts in sorted(drafts.items())
    }


def seconds(journal: Journal) -> dict[str, float]:
    """Wall-clock seconds of each kind of stage, over all seeds, rounds and operations."""
    total: dict[str, float] = defaultdict(float)
    for name, spent in journal.seconds().items():
        total[name.rpartition("/")[2]] += spent
    return {name: round(spent, 2) for name, spent in total.items()}


def mean(results: list[dict[str, Any]], name: str) -> float | None:
    """The mean of a number over seeds; None if no seed has it."""
    values = [result[name] for result in results if result[name] is not None]
    return float(np.mean(values)) if values else None


def versions() -> dict[str, str]:
    """Python and the libraries that numbers depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES}


def _save(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
