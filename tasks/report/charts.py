"""Charts of a report as inline SVG whose colours are CSS variables, so that one drawing serves light and dark."""

# ruff: noqa: S608  (names inside the SQL are constants of this package; values are parameters)

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tasks.report.data import RunFacts, rows

FIRST_STEPS = 8
"""The paper's Figure 1 shows the first eight steps."""
MAX_LINES = 60
"""Photos drawn as single lines."""
_FIRST_PHOTOS = f"""(plan, shard, row) IN (SELECT (plan, shard, row) FROM images
    WHERE run = $1 AND iterations > 0 ORDER BY plan, shard, row LIMIT {MAX_LINES})"""

_INK, _GRID = "#0a0b0c", "#0a0b0d"
_SERIES = tuple(f"#1a0b{index:02d}" for index in range(6))
_RAMP = tuple(f"#2a0b{index:02d}" for index in range(FIRST_STEPS))
_VARIABLES = (
    {_INK: "--ink", _GRID: "--grid"}
    | {colour: f"--series-{index}" for index, colour in enumerate(_SERIES)}
    | {colour: f"--ramp-{index}" for index, colour in enumerate(_RAMP)}
)
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fixpoint",
    "font.size": 9.5,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "text.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
}


@dataclass(frozen=True)
class Chart:
    """A drawing with the words that go with it; ``alt`` says in a sentence what there is to see."""

    title: str
    note: str
    alt: str
    svg: str


def charts_of(connection: duckdb.DuckDBPyConnection, facts: RunFacts) -> list[Chart]:
    """Every chart for which the run has data."""
    makers = (_first_steps, _all_steps, _paths, _hardest_step, _progress, _evaluations, _times, _stages)
    return [chart for maker in makers if (chart := maker(connection, facts)) is not None]


def comparison(connection: duckdb.DuckDBPyConnection, runs: Sequence[RunFacts]) -> list[Chart]:
    """Charts with one line a run."""
    return [chart for maker in (_compare_steps, _compare_cost) if (chart := maker(connection, runs)) is not None]


def draw(plot: Callable[[Figure], None], title: str, note: str, alt: str, *, height: float = 2.9) -> Chart:
    """Draw with our style and turn the place-holder colours into CSS variables."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.2, height), layout="constrained")
        plot(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Chart(title, note, alt, _clean(buffer.getvalue(), alt))


def _clean(svg: str, alt: str) -> str:
    """Only the drawing: no XML header, no metadata, no fixed size; ids made unique to the chart."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    prefix = f"c{zlib.crc32(svg.encode()):08x}"
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    view = re.search(r'viewBox="[^"]+"', svg)
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" role="img" aria-label="{label}" {view[0] if view else ""}>'
    svg = re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", svg)


def _first_steps(connection: duckdb.DuckDBPyConnection, facts: RunFacts) -> Chart | None:
    found = rows(
        connection,
        f"""SELECT step, iteration, median(intra) AS intra, median(inter) AS inter FROM steps
            WHERE run = ? AND step < {FIRST_STEPS} AND isfinite(intra) AND intra > 0 GROUP BY step, iteration
            QUALIFY count(*) >= 0.25 * max(count(*)) OVER (PARTITION BY step) ORDER BY step, iteration""",
        facts.run,
    )
    if not found:
        return None
    measured = any(row["inter"] is not None for row in found)

    def plot(figure: Figure) -> None:
        names = ("intra", "inter") if measured else ("intra",)
        axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axis, name in zip(axes, names, strict=True):
            for step in sorted({row["step"] for row in found}):
                line = [row for row in found if row["step"] == step and row[name] is not None]
                x, y = [row["iteration"] for row in line], [row[name] for row in line]
                axis.plot(x, y, "o-", color=_RAMP[step], label=f"step {step}")
            axis.set(yscale="log", xlabel="iteration", title=f"{name}-path" if measured else None)
            _iterations(axis, max(row["iteration"] for row in found))
        axes[0].set_ylabel("RMS loss, median")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, handlelength=1.2)

    note = "Median over the photos still iterating, as long as they are a quarter. Intra-path: RMS(f(z) − z)" + (
        "; inter-path: RMS(f(z) − f(z′)) of two paths started apart." if measured else "."
    )
    alt = "Loss against fixed-point iteration, one line for each of the first eight inversion steps."
    return draw(plot, "Loss against iteration, first steps", note, alt, height=3.3)


def _all_steps(connection: duckdb.DuckDBPyConnection, facts: RunFacts) -> Chart | None:
    lines = {name: _by_step(connection, facts.run, name) for name in ("intra", "bound", "inter")}
    lines = {name: line for name, line in lines.items() if line}
    if not lines:
        return None

    def plot(figure: Figure) -> None:
        axis = figure.subplots()
        for (name, line), colour in zip(lines.items(), _SERIES, strict=False):
            step, low, middle, high = zip(*line, strict=True)
            axis.plot(step, middle, "-", color=colour, label=_NAMES[name])
            axis.fill_between(step, low, high, color=colour, alpha=0.18, linewidth=0)
        axis.set(yscale="log", xlabel="inversion step (0 leaves the photo)", ylabel="RMS at the end of the step")
        _whole(axis)
        figure.legend(loc="outside lower center", ncols=3)

    note = "Lines: median over photos. Bands: 5 % to 95 %."
    return draw(plot, "Loss at the end of every step", note, "Final residuals by inversion step.", height=3.1)


_NAMES = {"intra": "intra-path", "bound": "certified bound", "inter": "inter-path"}


def _by_step(connection: duckdb.DuckDBPyConnection, run: str, name: str) -> list[tuple[float, ...]]:
    """Step, 5 %, 50 % and 95 % quantile of a residual at the end of each step."""
    query = "SELECT step, p05, p50, p95 FROM summary WHERE run = ? AND measure = ? AND p05 > 0 ORDER BY step"
    return [tuple(row.values()) for row in rows(connection, query, run, name)]


def _paths(connection: duckdb.DuckDBPyConnection, facts: RunFacts) -> Chart | None:
    lines = rows(
        connection,
        """SELECT key, step, path, list(x ORDER BY iteration) AS x, list(y ORDER BY iteration) AS y, max(iteration) AS n,
                  list(distance ORDER BY iteration) AS distance
           FROM paths WHERE run = ? GROUP BY ALL ORDER BY step, path""",
        facts.run,
    )
    if not lines:
        return None
    steps = sorted({line["step"] for line in lines})

    def plot(figure: Figure) -> None:
        for axis, step in zip(figure.subplots(1, len(steps), squeeze=False)[0], steps, strict=True):
            at = [line for line in lines if line["step"] == step]
            for line in at:
                axis.plot(line["x"], line["y"], "o-", color=_RAMP[line["path"] % len(_RAMP)], linewidth=1)
            axis.plot(0, 0, "*", color=_SERIES[1], markersize=9, zorder=5)
            # The starts lie far outside: what the first iteration leaves is what there is to see
            reach = 1.15 * max(abs(value) for line in at for value in [*line["x"][1:], *line["y"][1:]]) or 1.0
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=f"step {step}")
            axis.locator_params(nbins=4)
        figure.supxlabel("two coordinates of the latent, RMS", fontsize=9.5)

    ends = max(line["distance"][-1] for line in lines)
    starts = max(line["distance"][0] for line in lines)
    note = (
        f"{1 + max(line['path'] for line in lines)} paths of {lines[0]['key']}, {lines[0]['n']} plain iterations each, "
        f"from z and from z + n; star: where the unperturbed one ends. Greatest distance to it: {starts:.2g} at the "
        f"start, {ends:.1e} at the end. The frame begins after the first iteration."
    )
    return draw(
        plot, "Perturbed paths", note, "Perturbed paths of single inversion steps, in two coordinates.", height=2.4
    )


def _hardest_step(connection: duckdb.DuckDBPyConnection, facts: RunFacts) -> Chart | None:
    hardest = rows(
        connection,
        """SELECT step, avg(iteration) AS n FROM steps WHERE run = ? AND last
           GROUP BY 1 ORDER BY n DESC, step LIMIT 1""",
        facts.run,
    )
    if not hardest or hardest[0]["n"] < 1.5:
        return None
    step = hardest[0]["step"]
    lines = rows(
        connection,
        f"""SELECT list(iteration ORDER BY iteration) AS x, list(intra ORDER BY iteration) AS y FROM steps
            WHERE run = $1 AND step = $2 AND isfinite(intra) AND intra > 0 AND {_FIRST_PHOTOS}
            GROUP BY plan, shard, row ORDER BY plan, shard, row""",
        facts.run,
        step,
    )

    def plot(figure: Figure) -> None:
        axis = figure.subplots()
        for line in lines:
            axis.plot(line["x"], line["y"], "-", color=_SERIES[0], alpha=0.35, linewidth=0.9)
            axis.plot(line["x"][-1:], line["y"][-1:], "o", color=_SERIES[0], markersize=2.5)
        axis.set(yscale="log", xlabel="iteration", ylabel="RMS(f(z) − z)")
        _iterations(axis, max(max(line["x"]) for line in lines))

    note = f"Each line is one photo ({len(lines)} shown); a dot marks where it stopped."
    return draw(plot, f"Trajectories in the hardest step ({step})", note, "Intra-path loss of single photos.")


def _progress(connection: duckdb.DuckDBPyConnection, facts: RunFacts) -> Chart | None:
    lines = rows(
        connection,
        f"""SELECT list(nfe ORDER BY nfe) AS x, list(step + 1 ORDER BY nfe) AS y FROM steps
            WHERE run = $1 AND last AND {_FIRST_PHOTOS}
            GROUP BY plan, shard, row ORDER BY plan, shard, row""",
        facts.run,
    )
    if not lines:
        return None

    def plot(figure: Figure) -> None:
        axis = figure.subplots()
        most = max(max(line["y"]) for line in lines)
        axis.plot([0, most], [0, most], "--", color=_INK, alpha=0.6, linewidth=1, label="one evaluation a step")
        for line in lines:
            axis.plot([0, *line["x"]], [0, *line["y"]], "-", color=_SERIES[1], alpha=0.4, linewidth=0.9)
        axis.set(xlabel="evaluations of the model (NFE)", ylabel="inversion steps done")
        axis.legend(loc="lower right")
        _whole(axis)

    note = f"Each line is one photo ({len(lines)} shown). The steeper, the cheaper; flat stretches are hard steps."
    return draw(plot, "Progress of the inversion", note, "Inversion steps done against evaluations.")


def _evaluations(connection: duckdb.DuckDBPyConnection, facts: RunFacts) -> Chart | None:
    title, alt = f"Evaluations of {facts.network}", f"Histogram of evaluations of {facts.network} a photo."
    values = _values(connection, facts.run, "nfe")
    if not values.size or not np.ptp(values):  # every photo took as many: the number above says so
        return None
    return _histogram(values, title, "NFE, inversion and regeneration", alt)


def _times(connection: duckdb.DuckDBPyConnection, facts: RunFacts) -> Chart | None:
    title, alt = "Time a photo", "Histogram of processing time a photo."
    return _histogram(_values(connection, facts.run, "seconds"), title, "seconds, all stages", alt)


def _values(connection: duckdb.DuckDBPyConnection, run: str, column: str) -> NDArray[np.float64]:
    query = f"SELECT {column} AS v FROM images WHERE run = ? AND status = 'ok' AND {column} IS NOT NULL"
    return np.asarray(connection.execute(query, [run]).fetchnumpy()["v"], np.float64)


def _histogram(values: NDArray[np.float64], title: str, label: str, alt: str) -> Chart | None:
    if not values.size:
        return None
    integers = bool((values == values.round()).all())

    def plot(figure: Figure) -> None:
        axis = figure.subplots()
        whole = integers and np.ptp(values) < 30
        bins = (
            np.arange(values.min() - 0.5, values.max() + 1) if whole else np.histogram_bin_edges(values, "auto")
        ).tolist()
        axis.hist(values, bins=bins, color=_SERIES[0], alpha=0.75, rwidth=0.92)
        axis.axvline(float(np.mean(values)), color=_SERIES[1], linewidth=1.4)
        axis.set(xlabel=label, ylabel="photos")
        axis.grid(visible=False, axis="x")
        _whole(axis, "y")
        if integers:
            _whole(axis)

    note = f"Mean {np.mean(values):.3g} (the line), median {np.median(values):.3g}, largest {values.max():.3g}."
    return draw(plot, title, note, alt, height=2.5)


def _stages(connection: duckdb.DuckDBPyConnection, facts: RunFacts) -> Chart | None:
    del connection
    if not facts.seconds:
        return None

    def plot(figure: Figure) -> None:
        axis = figure.subplots()
        names, seconds = list(facts.seconds), list(facts.seconds.values())
        bars = axis.barh(names, seconds, color=_SERIES[0], alpha=0.75, height=0.65)
        axis.bar_label(bars, labels=[_duration(value) for value in seconds], padding=3, fontsize=8.5, color=_INK)
        axis.invert_yaxis()
        axis.margins(x=0.18)
        axis.set(xlabel="seconds a photo, mean")
        axis.grid(visible=False, axis="y")

    note = "Reading and writing overlap with computing other photos, so the wall time is less than the sum."
    return draw(plot, "Where the time goes", note, "Mean seconds a photo by stage.", height=2.5)


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 0.01 else f"{1000 * seconds:.2g} ms"


def _compare_steps(connection: duckdb.DuckDBPyConnection, runs: Sequence[RunFacts]) -> Chart | None:
    lines = {facts.label: _by_step(connection, facts.run, "intra") for facts in runs}
    if not any(lines.values()):
        return None

    def plot(figure: Figure) -> None:
        axis = figure.subplots()
        for index, (label, line) in enumerate(lines.items()):
            if line:
                step, _, middle, _ = zip(*line, strict=True)
                axis.plot(step, middle, color=_SERIES[index % len(_SERIES)], label=label)
        axis.set(yscale="log", xlabel="inversion step", ylabel="RMS(f(z) − z) at the end, median")
        _whole(axis)
        figure.legend(loc="outside lower center", ncols=2)

    return draw(plot, "Residual by step", "Median over photos.", "Final residual by step, one line a run.", height=3.1)


def _compare_cost(connection: duckdb.DuckDBPyConnection, runs: Sequence[RunFacts]) -> Chart | None:
    values = {facts.label: _values(connection, facts.run, "nfe") for facts in runs}
    values = {label: found for label, found in values.items() if found.size}
    if not values:
        return None

    def plot(figure: Figure) -> None:
        axis = figure.subplots()
        box = axis.boxplot(list(values.values()), orientation="horizontal", tick_labels=list(values), whis=(5, 95))
        for name in ("boxes", "whiskers", "caps", "fliers"):
            for line in box[name]:
                line.set(color=_INK, markeredgecolor=_INK, markersize=2)
        for line in box["medians"]:
            line.set(color=_SERIES[1], linewidth=2)
        axis.set(xlabel="evaluations a photo (NFE)")
        axis.invert_yaxis()
        axis.grid(visible=False, axis="y")

    note = "Box: middle half of the photos; line: median; whiskers: 5 % to 95 %."
    return draw(plot, "Cost", note, "Evaluations a photo, one box a run.", height=1.4 + 0.4 * len(values))


def _iterations(axis: Axes, most: int) -> None:
    """Whole iterations; where one step took many, on a logarithmic axis, so that the short ones stay visible."""
    if most <= 12:
        _whole(axis)
        return
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200) if tick <= most]
    axis.set_xscale("log")
    axis.set_xticks(ticks, [str(tick) for tick in ticks])


def _whole(axis: Axes, which: str = "x") -> None:
    """Whole numbers on an axis of counts."""
    target = axis.xaxis if which == "x" else axis.yaxis
    target.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
