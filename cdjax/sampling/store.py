"""The teacher's samples and their recorded targets, in memory and on disk.

In: `Rollout`s from sampling/answers.py, a shard at a time. Out: the same `Rollout`s, bit for bit, in this process or a
later one.
"""

import contextlib
import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float32, Int32

from cdjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Rollout:
    """An answer of a model, with targets recorded of a teacher's distribution before each of its tokens."""

    input: str
    sample: int  # number of the sample, from 0 to `Sampling.per_input` - 1
    ids: Int32[np.ndarray, "C"]  # the completion, stop token included
    logprobs: Float32[np.ndarray, "C"]  # of the ids under the model that wrote them, at temperature 1
    stopped: bool  # ended by a stop token, not by the length limit
    targets: dict[str, np.ndarray]  # the arrays that the kind of targets records, [C, ...]
    verdicts: Int32[np.ndarray, "C"]  # 1: the student drafted this id; -1: its draft was refused; 0: there was no draft


RAGGED = ("ids", "logprobs", "verdicts")  # fields with a C axis, stored end to end as `targets` are
TARGETS = "targets."  # prefix of the names of the targets' arrays in a file


class Store:
    """A directory of numbered shards, each complete or absent, and of the request that they answer (`asked.json`)."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def open(self, asked: dict[str, Any]) -> None:
        """Starts or continues the store for what is asked. Raises UserError if it holds answers to something else."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "asked.json"
        asked = json.loads(json.dumps(asked))  # as it will be when read back: tuples become lists
        if not path.exists() and not any(self.directory.glob("*.npz")):
            with _whole(path) as file:
                file.write(json.dumps(asked, indent=2).encode())
        before = json.loads(path.read_text()) if path.exists() else {}
        changes = [
            f"{name} was {before.get(name)}, is now {asked.get(name)}"
            for name in sorted(before.keys() | asked.keys())
            if before.get(name) != asked.get(name)
        ]
        if changes:
            raise UserError(
                f"{self.directory} holds the samples of another request ({'; '.join(changes)}); "
                "ask for the same again, give another workdir, or delete that folder"
            )

    def has(self, shard: int) -> bool:
        """Whether the shard has been written."""
        return self._path(shard).exists()

    def write(self, shard: int, rollouts: Sequence[Rollout]) -> None:
        """Writes the shard; if killed meanwhile, no part of it remains under its name."""
        texts = json.dumps([rollout.input for rollout in rollouts])
        arrays: dict[str, Any] = {
            "inputs": np.frombuffer(texts.encode(), np.uint8),
            "sample": np.array([rollout.sample for rollout in rollouts], np.int32),
            "stopped": np.array([rollout.stopped for rollout in rollouts], bool),
            "lengths": np.array([len(rollout.ids) for rollout in rollouts], np.int64),
        }
        columns = [_columns(rollout) for rollout in rollouts]
        arrays |= {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
        with _whole(self._path(shard)) as file:
            np.savez(file, **arrays)

    def read(self, shard: int) -> list[Rollout]:
        """The shard's rollouts. Raises UserError naming the file if it is damaged."""
        path = self._path(shard)
        try:
            with path.open("rb") as file:
                arrays = dict(np.load(file, allow_pickle=False))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} cannot be read ({error}); delete it and it is sampled again") from error
        ends = np.cumsum(arrays["lengths"])[:-1]
        recorded = {name for name in arrays if name.startswith(TARGETS)}
        columns = {name: np.split(arrays[name], ends) for name in (*RAGGED, *recorded)}
        inputs = json.loads(arrays["inputs"].tobytes())
        return [
            Rollout(
                input=inputs[row],
                sample=int(arrays["sample"][row]),
                stopped=bool(arrays["stopped"][row]),
                targets={name.removeprefix(TARGETS): columns[name][row] for name in recorded},
                **{name: columns[name][row] for name in RAGGED},
            )
            for row in range(len(inputs))
        ]

    def _path(self, shard: int) -> Path:
        return self.directory / f"{shard:05d}.npz"

    def write_text(self, rollouts: Sequence[Rollout], decode: Callable[[np.ndarray], str]) -> Path:
        """Writes `samples.jsonl`, for people: each sample's input, text and log-probability. Returns its path."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "samples.jsonl"
        with _whole(path) as file:
            for rollout in rollouts:
                line = {
                    "input": rollout.input,
                    "sample": rollout.sample,
                    "text": decode(rollout.ids),
                    "stopped": rollout.stopped,
                    "logprob": round(float(rollout.logprobs.sum()), 3),
                }
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        return path


def _columns(rollout: Rollout) -> dict[str, np.ndarray]:
    return {name: getattr(rollout, name) for name in RAGGED} | {TARGETS + k: x for k, x in rollout.targets.items()}


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file that appears under its name only when it is complete."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            yield file
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
