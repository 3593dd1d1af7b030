"""Figures of a convergence analysis: one drawing a question, every axis labelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from fpcore.inversion.convergence import Columns

FIRST_STEPS = 8
"""As in the paper's Figure 1."""
STYLE: Any = {
    "font.size": 9, "axes.titlesize": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": "#e3e3e3", "grid.linewidth": 0.6, "legend.frameon": False,
    "legend.fontsize": 8, "svg.hashsalt": "fixpoint", "lines.linewidth": 1.6,
}  # fmt: skip
BLUE, ORANGE, GREEN, RED = "#2f6fb3", "#d06a1c", "#2b8a6b", "#b33f62"
BAD = {
    "uncertified": "#9db8d2",
    "stagnated": "#a88a12",
    "oscillating": "#8a4fa8",
    "diverging": RED,
    "max_iterations": "#777777",
}


def draw(name: str, columns: Columns) -> Figure:
    """The figure called ``name`` of its table's columns; ``TABLE_OF`` says which table."""
    make, size = _makers()[name]
    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        make(figure, columns)
    return figure


TABLE_OF = {
    "contraction": "contraction",
    "paths": "paths",
    "curves-first-steps": "curves",
    "curves-all-steps": "curves",
    "sensitivity": "sensitivity",
}
"""The table that each figure is drawn from."""


def _makers() -> dict[str, tuple[Callable[[Figure, Columns], None], tuple[float, float]]]:
    return {
        "contraction": (_contraction, (6.4, 3.6)),
        "paths": (_paths, (7.2, 6.4)),
        "curves-first-steps": (_first_curves, (8.4, 4.6)),
        "curves-all-steps": (_all_curves, (7.6, 3.6)),
        "sensitivity": (_sensitivity, (8.8, 4.8)),
    }


def _median(columns: Columns, measure: str, by: str, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians over photographs of finite values: (value of ``by``, median)."""
    where = where & np.isfinite(columns[measure].astype(float))
    at = np.unique(columns[by][where])
    return at, np.array([np.median(columns[measure][where & (columns[by] == x)]) for x in at])


def _contraction(figure: Figure, c: Columns) -> None:
    axes = figure.subplots()
    near = c["distance"] < 0.1
    kinds = (
        ("random pair, RMS distance 0.01", (c["direction"] == "random") & near, BLUE, "-"),
        ("random pair, RMS distance 1", (c["direction"] == "random") & ~near, GREEN, "--"),
        ("least contracted direction", c["direction"] == "least contracted", ORANGE, "-"),
    )
    for label, where, colour, style in kinds:
        x, y = _median(c, "ratio", "step", where)
        axes.plot(x, y, style, color=colour, label=label)
        if colour == ORANGE:
            axes.plot(
                x,
                [c["ratio"][where & (c["step"] == s)].max() for s in x],
                ":",
                color=colour,
                label="… worst photograph",
            )
    x, y = _median(c, "rate", "step", near)
    axes.plot(x, y, color="black", linewidth=1, label="r_t, largest for an ideal denoiser")
    axes.axhline(1, color=RED, linewidth=0.8)
    axes.set(yscale="log", xlabel="step of the inversion", ylabel="‖f(z) − f(z')‖ / ‖z − z'‖", title="How f contracts")
    axes.legend()


def _paths(figure: Figure, c: Columns) -> None:
    steps = np.unique(c["step"])
    columns = min(2, len(steps))
    grid = figure.subplots(-(-len(steps) // columns), columns, squeeze=False)
    for axes, step in zip(grid.flat, steps, strict=False):
        for path in np.unique(c["path"]):
            at = (c["step"] == step) & (c["path"] == path)
            colour = colormaps["viridis"](path / 8)
            axes.plot(c["x"][at], c["y"][at], "o-", markersize=3, linewidth=0.9, color=colour)
        axes.plot(0, 0, "*", color=RED, markersize=9, zorder=5)
        # The starts lie far outside: what is left after the first iteration is what there is to see
        after = (c["step"] == step) & (c["iteration"] >= 1)
        reach = 1.15 * max(np.abs(c["x"][after]).max(), np.abs(c["y"][after]).max())
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), title=f"step {step}")
        axes.set(xlabel="first coordinate, RMS", ylabel="second coordinate, RMS")
    for axes in list(grid.flat)[len(steps) :]:
        axes.set_visible(False)
    iterations = int(c["iteration"].max())
    title = f"Paths from z(t-1) + n, iterations 1 to {iterations}; star: where the unperturbed one ends"
    figure.suptitle(title, fontsize=9.5)


def _first_curves(figure: Figure, c: Columns) -> None:
    steps = np.unique(c["step"])[:FIRST_STEPS]
    grid = figure.subplots(2, 4, sharex=True, sharey=True)
    for axes, step in zip(grid.flat, steps, strict=False):
        for measure, colour, label in (("intra", BLUE, "intra-path"), ("inter", ORANGE, "inter-path")):
            x, y = _median(c, measure, "iteration", c["step"] == step)
            axes.plot(x, y, "o-", markersize=2.5, color=colour, label=label)
        axes.locator_params(axis="x", integer=True)
        axes.set(yscale="log", title=f"step {step}, t = {c['timestep'][c['step'] == step][0]}")
    grid.flat[0].legend()
    for axes in list(grid.flat)[len(steps) :]:
        axes.set_visible(False)
    figure.supxlabel("iteration", fontsize=9)
    figure.supylabel("RMS distance (median over photographs)", fontsize=9)


def _all_curves(figure: Figure, c: Columns) -> None:
    pair = figure.subplots(1, 2, sharey=True)
    steps = np.unique(c["step"])
    for axes, (measure, title) in zip(pair, (("intra", "RMS(f(z) − z)"), ("inter", "RMS(f(z) − f(ẑ))")), strict=True):
        for step in steps:
            x, y = _median(c, measure, "iteration", c["step"] == step)
            axes.plot(x, y, linewidth=0.9, color=colormaps["viridis"](step / max(1, steps.max())))
        axes.set(yscale="log", xlabel="iteration", title=f"{measure}-path: {title}")
    pair[0].set_ylabel("RMS distance (median over photographs)")
    shades = figure.colorbar(ScalarMappable(Normalize(0, steps.max()), "viridis"), ax=list(pair), pad=0.01)
    shades.set_label("step of the inversion")


def _sensitivity(figure: Figure, c: Columns) -> None:
    settings = list(dict.fromkeys(c["setting"]))
    cost, missed = figure.subplots(2, 1, sharex=True)
    labels: list[str] = []
    for setting in settings:
        for value in dict.fromkeys(c["value"][c["setting"] == setting]):
            at = (c["setting"] == setting) & (c["value"] == value)
            x, steps = len(labels), c["steps"][at].mean()
            cost.bar(x, c["nfe"][at].mean() / steps, color=BLUE)
            _stack(missed, x, {name: 100 * c[name][at].mean() / steps for name in BAD}, with_label=not labels)
            labels.append(f"{setting}\n{value}" if setting == "steps" else value)
    cost.set(
        ylabel="evaluations of f a step",
        title="certified, plain iterations, RMS 1e-3, at most 12 a step: one thing varied at a time",
    )
    missed.set(ylabel="steps not converged, %")
    missed.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize=7.5)
    missed.legend()


def _stack(axes: Axes, x: int, shares: dict[str, float], with_label: bool) -> None:
    bottom = 0.0
    for name, share in shares.items():
        axes.bar(x, share, bottom=bottom, color=BAD[name], label=name.replace("_", " ") if with_label else None)
        bottom += share
