"""Kinds of targets: the record of the teacher's distribution before each token. `target.py` has their interface.

The decode step (generate.py) or a later reading (reread.py) makes the record, a dictionary of arrays. It is stored, cut
by f, packed and sharded without a look inside: only the kind's own file knows the arrays' names.
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
    token_logprob="cdjax.sampling.targets.token_logprob:TokenLogprob",
)
Targets = Annotated[Any, TARGETS]
