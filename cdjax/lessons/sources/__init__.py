"""Who writes what is learned, a file each.

A source is a frozen dataclass with `answers(request)`, which gives answers to the inputs of a `Request`, with the
targets that it asks for. In segments (`update.every`) it is asked anew, each time with the student as it is then.
"""

from typing import Annotated, Any

from cdjax.parts import Kinds

SOURCES = Kinds(
    "source",
    teacher="cdjax.lessons.sources.teacher:FromTeacher",
    student="cdjax.lessons.sources.student:FromStudent",
    mixture="cdjax.lessons.sources.mixture:Mixture",
    labels="cdjax.lessons.sources.labels:FromLabels",
)
Source = Annotated[Any, SOURCES]
