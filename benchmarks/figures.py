"""Draw two figures of docs/CONVERGENCE.md from saved measurements.

    python -m benchmarks.figures --norms norms.jsonl --study FOLDER --into docs/figures

``norms.jsonl`` was saved by ``benchmarks.inversion`` at several tolerances and both norms, the folder by
``benchmarks.convergence``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from tasks.evaluation.convergence_figures import BLUE, GREEN, ORANGE, RED, STYLE

LINES = {
    ("plain, intra-path", "state"): (BLUE, "-"),
    ("plain, intra-path", "picture"): (BLUE, "--"),
    ("certified + extrapolated + Chebyshev", "state"): (ORANGE, "-"),
    ("certified + extrapolated + Chebyshev", "picture"): (ORANGE, "--"),
}


def norms(file: Path) -> Figure:
    """Round-trip PSNR against evaluations, a line for a method and a norm."""
    rows = pd.read_json(file, lines=True)
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axes = figure.subplots()
    for (name, norm), (colour, style) in LINES.items():
        part = rows[(rows["method"] == name) & (rows["norm"] == norm)].sort_values("nfe")
        axes.plot(part["nfe"], part["psnr"], "o", linestyle=style, color=colour, label=f"{name}, {norm} norm")
        for _, row in part.iterrows():
            axes.annotate(f"{1e3 * row['tolerance']:g}e-3", (row["nfe"], row["psnr"]), fontsize=6.5,
                          xytext=(3, -8), textcoords="offset points")  # fmt: skip
    axes.set(xlabel="evaluations a photograph (50 steps)", ylabel="round-trip PSNR, dB",
             title=f"Tolerance and norm, {int(rows['photographs'].iloc[0])} photographs")  # fmt: skip
    axes.legend(handlelength=3.5)
    return figure


def errors(folder: Path) -> Figure:
    """True error against what each test shows, over ten plain iterations."""
    paths = pd.read_parquet(folder / "paths.parquet")
    paths = paths[paths["error"] > 3 * paths["floor"]]
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    grid = figure.subplots(1, 3, sharex=True, sharey=True)
    tests = (
        ("intra", "intra-path RMS(f(z) − z)", BLUE),
        ("inter", "inter-path RMS(f(z) − f(ẑ))", GREEN),
        ("bound", "certified bound", ORANGE),
    )
    ends = np.array([1e-6, 1])
    for axes, (column, label, colour) in zip(grid, tests, strict=True):
        part = paths[np.isfinite(paths[column])]
        axes.plot(part[column], part["error"], ".", markersize=1.5, color=colour, alpha=0.35, rasterized=True)
        axes.plot(ends, ends, color=RED, linewidth=0.8)
        above = 100 * (part["error"] > part[column]).mean()
        axes.set(xscale="log", yscale="log", xlabel=label, title=f"error larger in {above:.1f} % of cases")
    grid[0].set_ylabel("true error RMS(f(z) − z*)")
    return figure


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--norms", type=Path)
    parser.add_argument("--study", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    chosen = parser.parse_args()
    chosen.into.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        if chosen.norms:
            norms(chosen.norms).savefig(chosen.into / "norms.png", dpi=110)
        if chosen.study:
            errors(chosen.study).savefig(chosen.into / "errors.png", dpi=110)


if __name__ == "__main__":
    main()
