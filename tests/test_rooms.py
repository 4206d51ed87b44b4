"""Who may import whom. A room is a folder of the package or a file beside them; the data path only looks back."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cdjax

PACKAGE = Path(__file__).parent.parent / "cdjax"
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax"}

PLAIN = {
    "bench.cases",
    "bench.contest",
    "bench.figures",
    "config",
    "errors",
    "lessons.filters",
    "lessons.keep",
    "lessons.packing",
    "parts",
    "progress",
    "report",
    "workdir.directory",
    "workdir.journal",
    "workdir.metrics",
    "sampling.store",
    "sampling.targets",
    "score.measures",
    "score.summary",
    "tasks",
    "views",
}

# The rooms along the data path: each may import itself, and those named here.
CORE = {"errors", "parallel", "parts", "progress"}
MODEL = CORE | {"compiled", "model", "students"}
LESSONS = MODEL | {"tasks", "views", "sampling", "lessons"}
LEARN = LESSONS | {"losses", "learn"}

SCORE = LEARN | {"score"}
RUN = SCORE | {"config", "workdir"}

MAY_IMPORT = {
    "errors": set(),
    "parts": set(),
    "compiled": set(),
    "progress": set(),
    "parallel": {"errors"},
    "tasks": {"errors", "parts"},
    "views": {"errors", "parts", "tasks"},
    "model": CORE | {"compiled"},
    "students": CORE | {"model"},
    "sampling": MODEL | {"views"},
    "lessons": LESSONS,
    "losses": MODEL | {"sampling"},
    "learn": LEARN,
    "score": SCORE,
    "config": SCORE,
    "workdir": {"config", "errors"},
    "report": {"config", "errors", "score", "workdir"},
    "language_model": MODEL | {"tasks", "views", "sampling"},
    "bench": LEARN,
    "distill": RUN,
}
# These see every room, and no room sees them.
WHOLE = {"__init__", "cli", "distill.rounds", "distill.stages"}


def name_of(path: Path) -> str:
    """`lessons/keep.py` -> "lessons.keep", `distill/__init__.py` -> "distill"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(source: str, *, late: bool = True) -> set[str]:
    """Every module that the source imports; `from a import b` may be `a` or `a.b`.

    Without `late` only those that importing the source imports: none inside functions, none for types alone.
    """
    found, waiting = set(), [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if late or not (for_types or isinstance(node, ast.FunctionDef)):
            waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def inside(name: str, *, late: bool = True) -> set[str]:
    """The modules of this package that a module imports."""
    found = imports(MODULES[name].read_text(encoding="utf-8"), late=late)
    return {one.removeprefix("cdjax.") for one in found} & set(MODULES) - {name}


def closure(name: str) -> set[str]:
    """A module and everything of this package that is imported with it, but not what its functions import later."""
    seen, waiting = set(), [name]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += inside(one, late=False) | ({one.rpartition(".")[0]} - {""})
    return seen


def is_plain(name: str) -> bool:
    """Whether a module or a folder that it is in is in PLAIN."""
    return any(f"{name}.".startswith(f"{one}.") for one in PLAIN)


def test_the_walker_sees_every_kind_of_import():
    source = (
        "import jax.numpy\nfrom cdjax.lessons import batches as b\ndef f():\n    from cdjax.model.spec import Spec\n"
    )
    found = {"jax.numpy", "cdjax.lessons", "cdjax.lessons.batches", "cdjax.model.spec", "cdjax.model.spec.Spec"}
    assert imports(source) == found
    assert imports(source, late=False) == found - {"cdjax.model.spec", "cdjax.model.spec.Spec"}
    assert imports("if TYPE_CHECKING:\n    import jax\nelse:\n    import numpy", late=False) == set()


@pytest.mark.parametrize("name", sorted(set(MODULES) - WHOLE))
def test_a_room_imports_only_what_it_may(name):
    room = name.split(".")[0]
    assert room in MAY_IMPORT, f"{room} is new: say above which rooms it may import"
    assert {one for one in inside(name) if one.split(".")[0] not in MAY_IMPORT[room] | {room}} == set()


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_no_room_may_import_itself_by_way_of_others(room):
    seen, waiting = set(), sorted(MAY_IMPORT[room] - {room})
    while waiting:
        other = waiting.pop()
        if other not in seen:
            seen.add(other)
            waiting += MAY_IMPORT[other] - {other}
    assert room not in seen


def test_no_room_imports_what_sees_the_whole():
    rooms = {name for name in set(MODULES) - WHOLE if not name.startswith("distill")}
    assert {name for name in rooms if inside(name) & WHOLE} == set()


@pytest.mark.parametrize(
    "name", sorted(name for name in MODULES if any(f"{name}.".startswith(f"{plain}.") for plain in PLAIN))
)
def test_plain_rooms_never_import_jax(name):
    texts = [MODULES[one].read_text(encoding="utf-8") for one in closure(name)]
    reached = set().union(*(imports(text, late=False) for text in texts))
    assert {one for one in reached if one.split(".")[0] in HEAVY} == set()


def test_python_agrees_that_plain_rooms_are_plain():
    names = [f"cdjax.{name}" for name in MODULES if any(f"{name}.".startswith(f"{plain}.") for plain in PLAIN)]
    program = f"import sys, {', '.join(names)}; sys.exit(sorted({HEAVY} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr


def test_public_names_are_there_and_no_others():
    for name in cdjax.__all__:
        assert getattr(cdjax, name).__name__ == name and name in dir(cdjax)
    with pytest.raises(AttributeError, match="module 'cdjax' has no attribute 'distil'"):
        _ = cdjax.distil
