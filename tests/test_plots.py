"""Curves put rounds one after the other and are smoothed without a lag; drawings are plain, repeatable SVG."""

import re

from cdjax.report import plots


def words(svg):
    """The text of a drawing."""
    return " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))


def test_rounds_follow_one_another():
    lines = [{"round": number, "step": step} for number in (0, 1, 2) for step in (1, 2, 3)]
    assert list(plots.steps(lines)) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_smoothing_keeps_lines_straight_and_ends_in_place():
    straight = [2.0 * x for x in range(100)]
    assert list(plots.smooth(straight)) == straight
    jagged = [float(x % 2) for x in range(100)]
    smooth = list(plots.smooth(jagged))
    assert smooth[0] == jagged[0] and smooth[-1] == jagged[-1]
    assert all(0.4 < value < 0.6 for value in smooth[5:-5])


def test_only_what_was_logged_is_drawn():
    lines = [{"seed": seed, "round": 0, "step": step, "loss": 1 / step} for seed in (0, 1) for step in (1, 2, 3)]
    drawn = words(plots.curves(lines))
    assert "loss" in drawn and "seed 0" in drawn and "seed 1" in drawn and "KL" not in drawn
    assert "seed" not in words(plots.curves([line for line in lines if line["seed"] == 0]))


def test_a_metric_that_begins_late_is_drawn_where_it_begins():
    lines = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5, "kl": 0.25}]
    assert "KL to the teacher" in words(plots.curves(lines))


def test_scores_are_in_the_order_given_with_mean_and_interval():
    entries = {name: {"mean": 0.5, "ci95": [0.25, 0.75], "per_seed": [0.5]} for name in ("b_c", "a")}
    drawn = plots.scores(entries)
    assert re.search(r"b c.*\ba\b", words(drawn)) and "0.500" in words(drawn) and "[0.250, 0.750]" in words(drawn)
    assert drawn.startswith("<svg role=") and drawn == plots.scores(entries)
