"""Parts: a union that `kind` tells apart, with bounds and refusals of its own."""

import dataclasses
import json
from typing import Annotated, Any, ClassVar

import pytest

from cdjax import parts
from cdjax.config import read
from cdjax.errors import UserError
from cdjax.parts import Kinds, above, at_least, between


@dataclasses.dataclass(frozen=True)
class Square:
    kind: ClassVar[str] = "square"
    side: int = at_least(1, 2)
    colour: str = "red"


@dataclasses.dataclass(frozen=True)
class Ellipse:
    kind: ClassVar[str] = "ellipse"
    width: float = above(0, 1.0)
    ratio: float = between(0, 1, 0.5)
    colour: str = "red"

    def problems(self):
        if self.ratio == 0.5 and self.width > 9:
            yield "width is too much for ratio=0.5"


SHAPES = Kinds("shape", square=f"{__name__}:Square", ellipse=f"{__name__}:Ellipse")
Shape = Annotated[Any, SHAPES]


@dataclasses.dataclass(frozen=True)
class Drawing:
    frame: Shape = Square()
    shapes: tuple[Shape, ...] = (Ellipse(), Square(3))


def change(drawing, **changes):
    for path, value in changes.items():
        drawing = read.assign(Drawing, drawing, path.split("__"), value)
    return drawing


@pytest.mark.parametrize(
    "changes, wanted",
    [
        ({"frame__side": "4"}, Drawing(frame=Square(4))),
        ({"frame": "ellipse"}, Drawing(frame=Ellipse())),
        ({"frame": {"kind": "ellipse", "width": 2}}, Drawing(frame=Ellipse(2.0))),
        ({"frame": '{"kind": "ellipse", "width": 2}'}, Drawing(frame=Ellipse(2.0))),
        ({"frame": Ellipse(3.0)}, Drawing(frame=Ellipse(3.0))),
        ({"frame__colour": "blue", "frame__kind": "ellipse"}, Drawing(frame=Ellipse(colour="blue"))),
        ({"shapes__1__side": "5"}, Drawing(shapes=(Ellipse(), Square(5)))),
        ({"shapes__1__kind": "ellipse"}, Drawing(shapes=(Ellipse(), Ellipse()))),
        ({"shapes": "square,ellipse"}, Drawing(shapes=(Square(), Ellipse()))),
        ({"shapes": '[{"kind": "square", "side": 7}]'}, Drawing(shapes=(Square(7),))),
        ({"shapes": ()}, Drawing(shapes=())),
    ],
    ids=str,
)
def test_a_part_is_named_by_its_kind(changes, wanted):
    assert change(Drawing(), **changes) == wanted


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"frame__kind": "sqare"}, "frame.kind must be one of square, ellipse, got 'sqare' (did you mean 'square'?)"),
        ({"frame__width": 1}, "frame of kind square has no field 'width'; it has colour, side"),
        ({"frame": {"kind": "square", "width": 1}}, "frame of kind square has no field 'width'"),
        ({"frame": {"side": 1}}, "frame must be a shape with a \"kind\" of square, ellipse; got {'side': 1}"),
        ({"frame": 3}, 'frame must be a shape with a "kind"'),
        ({"frame": Drawing()}, "frame.kind must be one of square, ellipse, got 'Drawing'"),
        ({"frame__side": "wide"}, "frame.side must be an integer, got 'wide'"),
        ({"shapes__2__kind": "square"}, "shapes has 2 entries, there is no '2'"),
        ({"shapes": "square,circle"}, "shapes.1.kind must be one of square, ellipse, got 'circle'"),
        ({"shapes": 3}, "shapes must be a list, each entry a shape (square, ellipse), got 3"),
        ({"frame__kind__x": "square"}, "frame of kind square has no field 'kind'"),
    ],
    ids=str,
)
def test_what_is_no_part_is_refused_with_the_path_and_what_there_is(changes, message):
    with pytest.raises(UserError) as error:
        change(Drawing(), **changes)
    assert message in str(error.value)


def test_parts_survive_json():
    drawing = Drawing(Ellipse(2.0, 0.25), (Square(4, "blue"),))
    text = json.dumps(parts.plain(drawing))
    assert json.loads(text)["frame"] == {"kind": "ellipse", "width": 2.0, "ratio": 0.25, "colour": "red"}
    assert read.convert(Drawing, text, "") == drawing


def test_bounds_and_refusals_are_told_with_their_paths():
    assert list(parts.problems(Drawing())) == []
    wrong = Drawing(Square(0), (Ellipse(0.0, 2.0), Ellipse(10.0)))
    assert list(parts.problems(wrong)) == [
        "frame.side must be at least 1, got 0",
        "shapes.0.width must be more than 0, got 0",
        "shapes.0.ratio must be between 0 and 1, got 2",
        "shapes.1.width is too much for ratio=0.5",
    ]
    assert list(parts.problems(Ellipse(0.0), "here")) == ["here.width must be more than 0, got 0"]


def test_a_part_is_imported_when_it_is_asked_for():
    kinds = Kinds("thing", known=f"{__name__}:Square", other="nowhere.at.all:Other")
    assert list(kinds) == ["known", "other"] and kinds["known"].__name__ == "Square"
    assert kinds.named("Square") is not None and kinds.named("Circle") is None
    assert kinds.class_names() == ["Square", "Other"]
    with pytest.raises(ModuleNotFoundError):
        _ = kinds["other"]
