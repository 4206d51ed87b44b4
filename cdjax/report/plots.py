"""Numbers of a run -> inline SVG for its report.

In: scores of `results.json`, update lines of `metrics.jsonl`. Out: `<svg>` text whose letters the page's font draws.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT = "#1f2933", "#9aa5b1"
COLOURS = {"teacher": "#3e4c59", "before": "#b8c4ce", "after": "#0f8a74", "gradient_descent": "#d9932f"}
SEEDS = ("#0f8a74", "#3b6fb6", "#d9932f", "#a2476f", "#6b7a3a", "#5b4b8a")
CURVES = {
    "loss": "loss",
    "kl": "KL to the teacher, nats a token",
    "cross_entropy": "cross-entropy, nats a token",
    "grad_norm": "gradient norm",
}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cdjax",  # the same numbers give the same bytes
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#e4e7eb",
}


def scores(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """A figure with a bar for each score in 0..1, its 95 % interval, and a dot for each seed if there are several."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 0.55 * len(entries) + 0.5), layout="constrained")
        axes = figure.subplots()
        for row, (name, entry) in enumerate(entries.items()):
            mean, (low, high) = entry["mean"], entry["ci95"]
            axes.barh(row, mean, height=0.62, color=COLOURS.get(name, COLOURS["after"]))
            spread = [[max(mean - low, 0)], [max(high - mean, 0)]]
            axes.errorbar(mean, row, xerr=spread, color=INK, capsize=4, lw=1.3)
            if len(entry["per_seed"]) > 1:
                axes.plot(entry["per_seed"], [row] * len(entry["per_seed"]), "o", ms=5, mfc="white", mec=INK, mew=1)
            axes.text(1.03, row, f"{mean:.3f}", va="center", weight="bold")
            axes.text(1.1, row, f"[{low:.3f}, {high:.3f}]", va="center", color="#616e7c")
        axes.set_yticks(range(len(entries)), [name.replace("_", " ") for name in entries])
        axes.set_xlim(0, 1)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        return svg(figure, "scores with 95 % intervals")


def curves(lines: Sequence[Mapping[str, Any]]) -> str:
    """A figure of the logged losses and the gradient norm by update step, a colour for each seed, round after round."""
    shown = [name for name in CURVES if any(name in line for line in lines)]
    rows = (len(shown) + 1) // 2
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 2.7 * rows), layout="constrained")
        grid = figure.subplots(rows, 2, squeeze=False).ravel()
        for axes, name in zip(grid, shown, strict=False):
            _curve(axes, lines, name)
        if len(grid[0].lines) > 2:
            grid[0].legend(frameon=False, fontsize=9)
        for axes in grid[len(shown) :]:
            axes.set_visible(False)
        return svg(figure, ", ".join(shown) + " by update step")


def _curve(axes: Axes, lines: Sequence[Mapping[str, Any]], name: str) -> None:
    for number, seed in enumerate(sorted({line.get("seed", 0) for line in lines})):
        of_seed = [line for line in lines if line.get("seed", 0) == seed and name in line]
        xs, ys, colour = list(steps(of_seed)), [line[name] for line in of_seed], SEEDS[number % len(SEEDS)]
        axes.plot(xs, ys, color=colour, lw=0.9, alpha=0.3)
        axes.plot(xs, list(smooth(ys)), color=colour, lw=1.8, label=f"seed {seed}")
    axes.set_title(CURVES[name], loc="left", fontsize=10)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.margins(x=0.01)
    axes.grid(axis="y")


def steps(lines: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    """Yields each line's step, counted over all rounds; a line counts from the start of its round."""
    before, step, last_round = 0, 0, None
    for line in lines:
        if line.get("round") != last_round:
            before, last_round = step, line.get("round")
        step = before + line["step"]
        yield step


def smooth(values: Sequence[float]) -> Iterator[float]:
    """Yields the mean of a window around each value, a twentieth of all values to either side, fewer at the ends."""
    for index in range(len(values)):
        reach = min(index, len(values) - 1 - index, len(values) // 20)
        window = values[index - reach : index + reach + 1]
        yield sum(window) / len(window)


def svg(figure: Figure, label: str) -> str:
    """The figure as `<svg>` text, the same bytes for the same numbers."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
