"""The cells of every notebook run, with a tiny random model in the place of the real one."""

import ast
import json
from pathlib import Path

import pytest
from test_rounds import experiment

from cdjax import config

NOTEBOOKS = Path(__file__).parent.parent / "experiments" / "notebooks"
INPUTS = 12


def cells(name):
    """The code of each cell with its tags; lines that are commands of the notebook are left out."""
    for cell in json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            code = "".join(line for line in cell["source"] if not line.startswith("%"))
            yield code, cell["metadata"].get("tags", [])


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The names that quickstart.ipynb leaves behind when it runs as a whole, and the value that each cell shows."""
    small = tmp_path_factory.mktemp("quickstart")
    (small / "config.json").write_text(config.to_json(experiment()))
    parameters = {"MODEL": "tiny:0", "INPUTS": INPUTS}
    parameters |= {"CONFIG": str(small / "config.json"), "WORKDIR": str(small / "run")}
    names, shown = {}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(NOTEBOOKS)
        for code, tags in cells("quickstart.ipynb"):
            tree = ast.parse(code)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, "quickstart.ipynb", "exec"), names)
            if "parameters" in tags:
                assert parameters.keys() <= names.keys() and Path(names["CONFIG"]).is_file()
                names |= parameters
            if last is not None:
                shown.append(eval(compile(ast.Expression(last.value), "quickstart.ipynb", "eval"), names))
    return names, shown


def test_quickstart_runs_from_load_to_compare(quickstart):
    names, shown = quickstart
    teacher, before, after = shown[1], shown[2], shown[-1]
    assert teacher.keys() == before.keys() == after.keys() and len(teacher) == 4
    assert {"teacher", "before", "after"} <= shown[-2].keys()
    assert (Path(names["WORKDIR"]) / "report.html").is_file()


def test_quickstart_distils_the_context_it_shows(quickstart):
    names, _ = quickstart
    saved = json.loads((Path(names["WORKDIR"]) / "config.json").read_text(encoding="utf-8"))
    (operation,) = saved["operations"]
    assert {one["input"]: one["output"] for one in operation["context"]["demonstrations"]} == names["shown"]
    assert operation["context"]["shots"] == 0 and operation["inputs"]["limit"] == INPUTS


def test_cells_are_short_and_saved_without_output():
    for path in NOTEBOOKS.glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert len(cell["source"]) <= 6, cell["source"]
            assert not cell.get("outputs")
