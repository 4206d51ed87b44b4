"""Students: the weights that train, and the model that they make, a file each. A student has four methods:

`init(decoder, *, seed, context) -> (trainable, frozen)`: the weights that an update changes, and those that it leaves,
for the model that the student begins as; called once a run. Both are pytrees of nnx Variables with logical axes
(`parallel.RULES`), by which they are placed on a mesh, decayed or not (`optim.decay_mask`), and saved. `context` (the
ids that the teacher reads before every input) and `seed` are for students whose `trainable` starts from them; `frozen`
depends on neither.

`reader(trainable, frozen) -> Reader`: the student as a model. It is called inside a compiled step and outside, and
differentiated with respect to `trainable`.

`base(trainable, frozen) -> Decoder`: the decoder that `init` was called with, from its results.

`export(trainable, frozen, directory, origin)`: writes a directory for `cdjax.load_model`.
"""

import dataclasses
from typing import Annotated, Any, TypeAlias

from cdjax.parts import Kinds

STUDENTS = Kinds(
    "student",
    whole="cdjax.students.whole:Whole",
    low_rank="cdjax.students.low_rank:LowRank",
    kv_prefix="cdjax.students.kv_prefix:KVPrefix",
)
Student = Annotated[Any, STUDENTS]


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a student's model came from, and what an exported student needs beside its weights."""

    source: str  # as for `cdjax.load_model`
    layers: tuple[int, ...]  # those of the source's layers that the model has, in this order; empty: all
    tokenizer: Any
    stop_ids: tuple[int, ...]


Trainable: TypeAlias = Any  # a pytree of nnx Variables, all of which an update changes
