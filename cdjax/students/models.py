"""The decoders of a run by their trainable weights: all share one structure and the weights that stay frozen."""

import dataclasses
from typing import Literal

from flax import nnx

from cdjax.model.decoder import Decoder
from cdjax.students import Adapter, adapter, trainable


@dataclasses.dataclass(frozen=True)
class Models:
    """`base` is the model's trainable state, `original` the first teacher's, `frozen` the rest."""

    graph: nnx.GraphDef
    base: nnx.State
    original: nnx.State  # `base`, until the teacher has been fine-tuned
    frozen: nnx.State
    adapter: Adapter
    tuned: bool  # whether the first teacher is another than the model

    def decoder(self, params: nnx.State) -> Decoder:
        """The decoder with these trainable weights."""
        return nnx.merge(self.graph, params, self.frozen)

    def start(self, seed: int, whose: Literal["teacher", "model"]) -> nnx.State:
        """The trainable state that a seed starts from: the weights or a fresh adapter that changes nothing."""
        if whose == "teacher" and self.tuned:
            return self.original
        if not self.adapter.rank:
            return self.base
        model = adapter.take_out(self.decoder(self.base))
        return trainable.split(trainable.add_adapter(model, self.adapter, seed), self.adapter)[1]


def models(decoder: Decoder, adapter: Adapter, *, tuned: bool) -> Models:
    """The models of a run that begins with `decoder`."""
    graph, base, frozen = trainable.split(trainable.add_adapter(decoder, adapter, 0), adapter)
    return Models(graph, base, base, frozen, adapter, tuned)
