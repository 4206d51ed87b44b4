"""The journal of a finished run -> results.json and examples.json, with what made them: commits and versions."""

import importlib.metadata
import json
import platform
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
    found = journal.results()
    graded = {name: [only(found[name], cfg.scored(-1))] for name in ("teacher", "before")}
    scored = by_round(cfg, found)
    last = (scored or [[]])[-1]
    if last:
        graded["after"] = last
    for name in (baseline.name for baseline in cfg.baselines):
        places = [f"seed {seed}/baseline {name}/score" for seed in cfg.seeds]
        if trained := [found[place] for place in places if place in found]:
            graded[name] = trained
    results = {
        "experiment": cfg.name,
        "commit": ", ".join(journal.commits()),
        "versions": versions(),
        "dtype": directory.dtype(cfg, journal),
        "seeds": list(cfg.seeds),
        "scores": {name: summarize(metric, many) for name, many in graded.items()},
        "tokens_per_request": {
            "teacher": found["teacher"]["tokens"],
            "student": mean(last or graded["before"], "tokens"),
        },
        "inputs": inputs(found),
        "rollouts": rollouts(found),
        "measures": measures(cfg, found["before"], scored),
        "rounds": [summarize(metric, many) for many in scored],
        "seconds": seconds(journal),
    }
    searched = {name: update for name, update in found.items() if name.endswith("/update") and "chosen" in update}
    if chosen := {name.removesuffix("/update"): update["chosen"] for name, update in searched.items()}:
        results["chosen"] = chosen
    if cfg.training.sampling.draft:
        results["acceptance"] = acceptance(found)
    columns = {"input": graded["teacher"][0]["inputs"], "expected": graded["teacher"][0]["expected"]}
    columns |= {name: graded[name][0]["answers"] for name in ("teacher", "before", "after") if name in graded}
    examples = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    _save(workdir / "examples.json", examples[:SHOWN])
    _save(workdir / "results.json", results)
    return results


def summarize(metric: str, graded: list[dict[str, Any]]) -> dict[str, Any]:
    """What `Exam.grade` found for each seed, as one entry of `scores`."""
    return summary(metric, [one["grades"] for one in graded], [one.get("magnitudes", []) for one in graded])


def by_round(cfg: config.Experiment, found: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The scored students of every round, in the order of the seeds."""
    rounds: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for seed in cfg.seeds:
        for number in range(len(found)):
            if (name := f"seed {seed}/round {number}/score") in found:
                rounds[number].append(found[name])
    return [rounds[number] for number in sorted(rounds)]


def only(graded: Graded, operations: Sequence[int]) -> Graded:
    """The rows of these operations."""
    rows = [row for row, number in enumerate(graded["operations"]) if number in operations]
    return graded | {name: [graded[name][row] for row in rows] for name in (*COLUMNS, "magnitudes") if name in graded}


def measures(cfg: config.Experiment, before: Graded, scored: list[list[Graded]]) -> dict[str, Any]:
    """What every measure says of the student before and after each round, over seeds; `after` is the last round."""
    stages = {"before": [before]} | {f"round {number}": graded for number, graded in enumerate(scored)}
    if scored:
        stages["after"] = scored[-1]
    told: dict[str, Any] = {}
    for measure in cfg.score.measures:
        kept = {name: [one["measures"].get(measure.kind) for one in graded] for name, graded in stages.items()}
        told[measure.kind] = {"title": measure.title} | {
            name: measured(many) for name, many in kept.items() if None not in many
        }
    return told


def measured(many: list[dict[str, Any]]) -> dict[str, Any]:
    """One measure over seeds: its mean, with an interval where it is known example by example."""
    unit = many[0]["unit"]
    if all("grades" in one for one in many):
        return summary(unit, [one["grades"] for one in many])
    per_seed = [one["mean"] for one in many]
    known = [mean for mean in per_seed if mean is not None]
    return {"metric": unit, "mean": float(np.mean(known)) if known else None, "per_seed": per_seed}


def inputs(found: dict[str, Any]) -> dict[str, int]:
    """Where the task inputs of all seeds, rounds and operations came from, and why some were left out."""
    counts: Counter[str] = Counter(test_over_budget=found["teacher"]["over_budget"])
    for name, result in found.items():
        if name.endswith("/inputs"):
            counts.update(result)
        if name.endswith("/sample"):
            counts["over_budget"] += result["over_budget"]
    return dict(counts)


def rollouts(found: dict[str, Any]) -> dict[str, Any]:
    """Teacher's samples over all seeds, rounds and operations: sampled == kept + the sum of dropped.

    `int8_kl` has for each round how far the rounded teacher that answered was from the full one, in nats a token.
    """
    kept = [result for name, result in found.items() if name.endswith("/keep")]
    int8 = [result["int8_kl"] for name, result in found.items() if name.endswith("/sample") and "int8_kl" in result]
    return {
        "sampled": sum(result["sampled"] for name, result in found.items() if name.endswith("/sample")),
        "kept": sum(result["kept"] for result in kept),
        "dropped": dict(sum((Counter(result["dropped"]) for result in kept), Counter())),
    } | ({"int8_kl": int8} if int8 else {})


def acceptance(found: dict[str, Any]) -> dict[str, float]:
    """The share of the student's drafts that the teacher let stand in each round, over all seeds and operations."""
    drafts: dict[str, Counter[str]] = defaultdict(Counter)
    for name, result in found.items():
        if name.endswith("/sample"):
            drafts[name.split("/")[1]].update(result)
    return {name: one["accepted"] / max(1, one["accepted"] + one["refused"]) for name, one in sorted(drafts.items())}


def seconds(journal: Journal) -> dict[str, float]:
    """Wall-clock seconds of each kind of stage, over all seeds, rounds and operations."""
    total: dict[str, float] = defaultdict(float)
    for name, spent in journal.seconds().items():
        total[name.rpartition("/")[2]] += spent
    return {name: round(spent, 2) for name, spent in total.items()}


def mean(results: list[dict[str, Any]], name: str) -> float | None:
    """Over seeds; None where that was not measured."""
    values = [result[name] for result in results if result[name] is not None]
    return float(np.mean(values)) if values else None


def versions() -> dict[str, str]:
    """Python and the libraries that numbers depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES}


def _save(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
