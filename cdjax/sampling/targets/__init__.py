"""What is recorded of the teacher's distribution before each token, a file a kind; `target.py` says what a kind has.

The decode step (generate.py) or a later reading (reread.py) records it as a dictionary of arrays. It is stored, cut by
f, packed and sharded as it is: only the file of its kind knows the arrays' names.
"""

from typing import Annotated, Any

from cdjax.parts import Kinds

TARGETS = Kinds(
    "target",
    labels="cdjax.sampling.targets.labels:Labels",
    top_k="cdjax.sampling.targets.top_k:TopK",
    draws="cdjax.sampling.targets.draws:Draws",
    full="cdjax.sampling.targets.full:Full",
    restricted="cdjax.sampling.targets.restricted:Restricted",
)
Targets = Annotated[Any, TARGETS]
