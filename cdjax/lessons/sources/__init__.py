"""Who writes what is learned, a file each; `source.py` says what a source has.

Most give answers to the inputs of a `Request`, with the targets that it asks for, and are asked anew in every segment
(`update.every`), each time with the student as it is then. Some have solved examples of their own.
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
