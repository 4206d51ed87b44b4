"""Sources of the answers that are learned, a file each; source.py has their base class.

Most answer the inputs of a `Request`, with the targets that it asks for, anew in every segment (`update.every`) and
with the student at that time. Others bring solved examples.
"""

from typing import Annotated, Any

from cdjax.parts import Kinds

SOURCES = Kinds(
    "source",
    teacher="cdjax.lessons.sources.teacher:FromTeacher",
    student="cdjax.lessons.sources.student:FromStudent",
    mixture="cdjax.lessons.sources.mixture:Mixture",
    labels="cdjax.lessons.sources.labels:FromLabels",
    file="cdjax.lessons.sources.file:FromFile",
    rollouts="cdjax.lessons.sources.rollouts:FromRollouts",
    written="cdjax.lessons.sources.written:Written",
    demonstrations="cdjax.lessons.sources.demonstrations:FromDemonstrations",
)
Source = Annotated[Any, SOURCES]
