"""A decoder -> what is trained and what is frozen.

In: `model.Decoder`. Out: (graph, trainable state, frozen state) for `learn/update.py`, or another Decoder.
"""

from typing import Any

import jax
from flax import nnx

from cdjax.model.decoder import Decoder
from cdjax.students import Adapter, adapter


def split(model: Decoder, cfg: Adapter) -> tuple[Any, nnx.State, nnx.State]:
    """Graph, trainable and frozen state: the low-rank adapter trains if it has a rank, otherwise every weight.

    `nnx.merge(graph, trainable, frozen)` is the model again. Raises ValueError if the adapter is not there.
    """
    kind = nnx.LoRAParam if cfg.rank else nnx.Param
    graph, (trainable, frozen) = nnx.graphdef(model), nnx.split_state(nnx.state(model), kind, ...)
    if not jax.tree.leaves(trainable):
        raise ValueError(f"adapter.rank={cfg.rank}, but the model has no adapter; add_adapter gives it one")
    return graph, trainable, frozen


def add_adapter(model: Decoder, cfg: Adapter, seed: int) -> Decoder:
    """The same function with a fresh low-rank adapter (rank 0: without); base weights are shared, not copied.

    An adapter that the model already has is merged into the base weights first.
    """
    model = adapter.merge(model)
    if not cfg.rank:
        return model
    return adapter.put(model, adapter.fresh(model, cfg.rank, seed), cfg.alpha / cfg.rank)
