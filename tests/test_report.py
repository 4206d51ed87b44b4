"""The page tells what the files of a run say, no more, and stands alone."""

import json
import re
from html.parser import HTMLParser

import pytest

from cdjax import config
from cdjax.errors import UserError
from cdjax.report import page

CFG = config.Experiment(
    name="ten <shots>",
    model="tiny:0",
    operations=(config.Operation(task="plural", inputs=config.Inputs(pool=True)),),
    seeds=(0, 1),
)


def score(mean, low, high, seeds=2):
    """An entry of `results.json`."""
    return {"metric": "accuracy", "mean": mean, "ci95": [low, high], "n": 160, "per_seed": [mean] * seeds}


RESULTS = {
    "experiment": CFG.name,
    "commit": "0123456789ab+",
    "versions": {"jax": "9.8.7"},
    "seeds": [0, 1],
    "scores": {
        "after": score(0.75, 0.7, 0.8),
        "teacher": score(0.9, 0.85, 0.95),
        "before": score(0.1, 0.05, 0.15),
        "gradient_descent": score(0.5, 0.45, 0.55),
    },
    "tokens_per_request": {"teacher": 100.0, "student": 10.0},
    "rollouts": {"sampled": 2000, "kept": 1900, "dropped": {"not_finished": 90, "empty": 10, "duplicate": 0}},
    "measures": {
        "held_out_kl": {
            "title": "Held-out KL",
            "before": {"metric": "nats", "mean": 1.75, "per_seed": [1.75]},
            "after": {"metric": "nats", "mean": 0.125, "per_seed": [0.125]},
        },
        "unheard_of": {"title": "Quietness", "after": {"metric": "sones", "mean": 0.03125, "per_seed": [0.03125]}},
    },
    "seconds": {"sample": 61.5, "update": 60.0},
}
EXAMPLES = [
    {
        "input": "cat & dog",
        "expected": "cats",
        "teacher": "cats",
        "before": "<script>x()</script>",
        "after": "cats ",
    },
    {"input": "bus", "expected": "buses", "teacher": "buses", "before": "bus", "after": "busses"},
]


@pytest.fixture
def workdir(tmp_path):
    """A run directory of a run that has ended."""
    (tmp_path / "config.json").write_text(config.to_json(CFG))
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    (tmp_path / "examples.json").write_text(json.dumps(EXAMPLES))
    lines = [
        {"seed": seed, "round": number, "stage": "update", "step": step, "loss": 2.0 / step, "kl": 1.0 / step}
        for seed in (0, 1)
        for number in (0, 1)
        for step in range(1, 6)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


class Page(HTMLParser):
    """The page's text, its tags, and whether they nest."""

    VOID = {"meta", "br"}

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.links, self.said = [], set(), [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.said.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.said))


def test_the_page_says_what_the_run_found(workdir):
    text = Page(page.write(workdir)).text
    for said in (
        "With the context in its prompt the model scores 0.900, without it 0.100.",
        "scores 0.750 without it. Gradient descent on the demonstrations themselves reaches 0.500;",
        "the two intervals do not overlap.",
        "gap closed 81 %",
        "tokens saved 90 % 100 → 10 a request",
        "accuracy on 160 test examples, mean and 95 % interval; a dot for each of 2 seeds",
        "sampled 2,000 100.0 %",
        "kept 1,900 95.0 %",
        "dropped: not finished 90 4.5 %",
        "dropped: empty 10 0.5 %",
        "before 1.7500 after 0.1250",
        "Quietness, sones after 0.0312",
        "Seconds, 122 in all",
        "commit 0123456789ab+",
        "jax 9.8.7",
        "seeds 0, 1",
    ):
        assert said in text, said
    assert "dropped: duplicate" not in text


def test_intervals_that_overlap_are_said_to(workdir):
    results = RESULTS | {"scores": RESULTS["scores"] | {"gradient_descent": score(0.65, 0.58, 0.72)}}
    (workdir / "results.json").write_text(json.dumps(results))
    assert "the two intervals overlap." in Page(page.write(workdir)).text


def test_examples_stand_side_by_side_and_are_only_text(workdir):
    shown = Page(page.write(workdir))
    assert "script" not in shown.tags and "shots" not in shown.tags
    assert "cat & dog cats cats ✗ <script>x()</script> ✓ cats" in shown.text
    assert "bus buses buses ✗ bus ✗ busses" in shown.text


def test_twenty_examples_are_shown(workdir):
    many = [{"input": f"input-{number}.", "teacher": "a", "before": "b", "after": "a"} for number in range(25)]
    (workdir / "examples.json").write_text(json.dumps(many))
    text = Page(page.write(workdir)).text
    assert "input-19." in text and "input-20." not in text
    assert "expected" not in text


def test_the_page_needs_no_other_file(workdir):
    shown = Page(page.write(workdir))
    assert [link for link in shown.links if not link.startswith("#")] == []
    assert (
        "@import" not in (workdir / "report.html").read_text()
        and "url(http" not in (workdir / "report.html").read_text()
    )


def test_scores_and_curves_are_drawn(workdir):
    html = page.write(workdir).read_text()
    bars, curves = (re.sub(r"<[^>]*>", " ", svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert [bars.find(name) for name in ("teacher", "before", "after", "gradient descent")] == sorted(
        bars.find(name) for name in ("teacher", "before", "after", "gradient descent")
    )
    assert "0.750" in bars and "[0.700, 0.800]" in bars
    assert "loss" in curves and "KL to the teacher" in curves and "seed 1" in curves and "gradient norm" not in curves


def test_only_what_differs_from_the_defaults_leads_the_config(workdir):
    text = Page(page.write(workdir)).text
    changed, whole = text.split("the whole resolved config")
    assert "inputs.pool true" in changed and "seeds [0, 1]" in changed and "optim.lr" not in changed
    assert '"lr": 0.0001' in whole


def test_the_same_run_gives_the_same_page(workdir):
    assert page.write(workdir).read_bytes() == page.write(workdir).read_bytes()


def test_a_run_that_has_not_ended_shows_what_there_is(tmp_path):
    (tmp_path / "config.json").write_text(config.to_json(CFG))
    text = Page(page.write(tmp_path)).text
    assert "has not ended yet" in text and "Scores" not in text and "Learning" not in text
    (tmp_path / "metrics.jsonl").write_text('{"stage": "update", "step": 1, "loss": 2.0}\n{"stage": "upd')
    assert "Learning" in Page(page.write(tmp_path)).text


def test_a_run_that_was_only_scored_says_so(workdir):
    scores = {name: RESULTS["scores"][name] for name in ("teacher", "before")}
    none = {"scores": scores, "rollouts": {"sampled": 0, "kept": 0, "dropped": {}}, "measures": {}}
    (workdir / "results.json").write_text(json.dumps(RESULTS | none))
    text = Page(page.write(workdir)).text
    assert "without it 0.100. This run has not ended yet" in text
    assert "The teacher's answers" not in text and "None" not in text and "Held-out" not in text
    assert page.table([workdir]).count("gap closed") == 0


def test_rounds_are_shown_where_there_are_several(workdir):
    rounds = [score(0.25, 0.2, 0.3), score(0.625, 0.6, 0.65)]
    (workdir / "results.json").write_text(json.dumps(RESULTS | {"rounds": rounds[:1]}))
    assert "Rounds" not in Page(page.write(workdir)).text
    (workdir / "results.json").write_text(json.dumps(RESULTS | {"rounds": rounds}))
    text = Page(page.write(workdir)).text
    assert "Rounds" in text and re.search(r"round 0.*round 1.*0\.250.*0\.625", text)


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run directory"):
        page.write(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is not JSON"):
        page.table([tmp_path])


def test_the_table_has_a_row_for_every_run(workdir, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(config.to_json(config.override(CFG, {"name": "second"})))
    header, rule, first, second = page.table([workdir, other]).splitlines()
    assert len(header) == len(rule) == len(first) == len(second)
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        *("run", "metric", "teacher", "before", "after", "gradient descent"),
        *("gap closed", "tokens a request", "minutes"),
    ]
    assert cells == [
        *("ten <shots>", "accuracy, n=160, 2 seeds", "0.900 [0.850, 0.950]", "0.100 [0.050, 0.150]"),
        *("0.750 [0.700, 0.800]", "0.500 [0.450, 0.550]", "81 %", "100 -> 10", "2.0"),
    ]
    assert [cell.strip() for cell in second.strip("|").split("|")] == ["second", *"--------"]


def test_the_gap_is_closed_from_before_to_teacher():
    scores = {name: score(mean, 0, 1) for name, mean in (("teacher", 0.75), ("before", 0.25), ("after", 0.5))}
    assert page.gap_closed(scores) == 0.5
    assert page.gap_closed(scores | {"teacher": score(0.25, 0, 1)}) is None
    assert page.gap_closed({}) is None
