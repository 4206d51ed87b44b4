"""Measures of a student beside its grades, a file for each.

A measure is called with a `Subject` and returns a dictionary that goes into the journal unchanged. Its "mean" is the
number that results and report show (None if there was nothing to measure), "unit" is the number's unit, and "grades",
if present, has the number of each example, for an interval.
"""

from typing import Annotated, Any

from cdjax.parts import Kinds

MEASURES = Kinds(
    "measure",
    held_out_kl="cdjax.score.measures.held_out_kl:HeldOutKL",
    forgetting="cdjax.score.measures.forgetting:Forgetting",
    wrong_association="cdjax.score.measures.wrong_association:WrongAssociation",
    agreement="cdjax.score.measures.agreement:Agreement",
    pass_at_k="cdjax.score.measures.pass_at_k:PassAtK",
)
Measure = Annotated[Any, MEASURES]
