"""What trains, and how it reads. A student is one part, in a file of its own, with

`init(decoder, *, seed, context) -> (trainable, frozen)`: what an update changes and what it needs besides, once a run,
for the model that the student begins as. Both are pytrees of nnx Variables with logical axes (`parallel.RULES`), by
which they are placed on a mesh, decayed or not (`optim.decay_mask`), and saved. `context`, the ids that the teacher
reads before every input, and `seed` are for students that draw or read something; `frozen` depends on neither.

`reader(trainable, frozen) -> Reader`: the student as it reads. It is called inside a compiled step and outside, and
differentiated with respect to `trainable`.

`base(trainable, frozen) -> Decoder`: the model that `init` was given, from what `init` returned.

`export(trainable, frozen, directory, *, tokenizer, stop_ids, source)`: writes a directory for `cdjax.load_model`;
`source` is where the model came from.
"""

from typing import Annotated, Any, TypeAlias

from cdjax.parts import Kinds

STUDENTS = Kinds(
    "student",
    whole="cdjax.students.whole:Whole",
    low_rank="cdjax.students.low_rank:LowRank",
    kv_prefix="cdjax.students.kv_prefix:KVPrefix",
)
Student = Annotated[Any, STUDENTS]
Trainable: TypeAlias = Any  # a pytree of nnx Variables, of which an update changes all
