"""``fixpoint evaluate``: the field's protocols as ordinary runs, a table beside them, and a sheet to look at."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw
from prefect import flow

from flows.batch import run_batch
from flows.execution import Execution
from tasks.analytics.committed import row_files
from tasks.config import DehazingMethod, RunConfig
from tasks.text import markdown as cell

MEASURES = """
    count(*) FILTER (status = 'ok') AS photos,
    count(*) FILTER (status <> 'ok') AS failed,
    avg(metrics['psnr_input']) AS psnr_before,
    avg(metrics['psnr_output']) AS psnr_after,
    avg(metrics['ssim_input']) AS ssim_before,
    avg(metrics['ssim_output']) AS ssim_after,
    min(metrics['psnr_output'] - metrics['psnr_input']) AS worst_gain,
    avg(CAST(metrics['psnr_output'] > metrics['psnr_input'] AS INT)) AS share_better,
    avg(metrics['dark_channel_before']) AS dark_channel_before,
    avg(metrics['dark_channel_after']) AS dark_channel_after,
    avg(metrics['contrast_before']) AS contrast_before,
    avg(metrics['contrast_after']) AS contrast_after,
    avg(metrics['colourfulness_before']) AS colourfulness_before,
    avg(metrics['colourfulness_after']) AS colourfulness_after,
    avg(metrics['structure_distance']) AS structure_distance,
    avg(metrics['ciede2000_input']) AS ciede2000_before,
    avg(metrics['ciede2000_output']) AS ciede2000_after,
    count(*) FILTER (metrics['psnr_output'] < metrics['psnr_input']) AS below_input,
    min(metrics['psnr_output']) AS least_psnr,
    count(*) FILTER (metrics['psnr_output'] >= 30) AS at_30_db,
    median(coalesce(metrics['clearer'], 1)) FILTER (status = 'ok') AS times_as_clear,
    count(*) FILTER (metrics['cleared'] = 1) AS cleared,
    count(*) FILTER (metrics['harmed'] = 1) AS harmed,
    count(*) FILTER (verdict = 'unchanged') AS unchanged,
    count(*) FILTER (verdict = 'gently') AS gently,
    avg(nfe) AS nfe
"""
TILE, MARGIN, HEAD = 192, 4, 20
Run = Callable[[str, str, RunConfig, Execution], Any]
"""(source, output, config, execution): does a run to its end."""


def find_pairs(data: str) -> tuple[Path, Path]:
    """The folders (hazy, clear) of a RESIDE-like data set. Raises ValueError naming what was looked for."""
    root = Path(data)
    for folder in (root, root / "haze_pairs" / "sots_outdoor", root / "outdoor"):
        for clear in ("gt", "clear"):
            if (folder / "hazy").is_dir() and (folder / clear).is_dir():
                return folder / "hazy", folder / clear
    raise ValueError(
        f"{data} holds no pairs: a folder 'hazy' and a folder 'gt' (or 'clear') with the same file names are needed"
    )


@flow(
    name="evaluate",
    flow_run_name="evaluate dehazing",
    description="Hazy pairs against their truth, the clear side, real photographs, clear photographs.",
    persist_result=False,
)
def evaluate_dehaze(
    pairs: list[str],
    output: str,
    config: RunConfig = RunConfig(),
    methods: list[DehazingMethod] = ["density", "even-veil", "dcp"],  # noqa: B006 (Prefect copies it; the form shows it)
    real: str | None = None,
    clear: str | None = None,
) -> list[dict[str, Any]]:
    """Run every method on hazy pairs and real photographs, the first on clear ones; table.json, table.md, table.parquet, sheets.

    Args:
        pairs: folders with hazy/ and gt/ (RESIDE's layout)
        output: folder that the runs, tables and sheets go to
        config: what is done to every photo, but for the method
        methods: methods of dehazing; the first is also run on the clear sides and on ``clear``
        real: folder of real hazy photographs without truth
        clear: folder of clear photographs, which are to come back as they are
    """
    return measure_dehazing(pairs, output, config, methods, real, clear)


def measure_dehazing(
    pairs: Sequence[str],
    output: str,
    config: RunConfig,
    methods: Sequence[DehazingMethod],
    real: str | None = None,
    clear: str | None = None,
    *,
    clear_sides: bool = True,
    run: Run = run_batch,
    on_measured: Callable[[str], None] = lambda name: None,
) -> list[dict[str, Any]]:
    """What the flow does; arguments as there.

    Args:
        clear_sides: whether the first method is also run on the clear sides of the pairs
        run: what does a run, with Prefect or without
        on_measured: told the name of each run when its row is in the tables
    """
    sides = [(folder, *find_pairs(folder)) for folder in pairs]
    jobs = _jobs(sides, output, methods, real, clear, clear_sides)
    if not jobs:
        raise ValueError("nothing to evaluate: name folders of pairs, --real or --clear")
    rows: list[dict[str, Any]] = []
    for job in jobs:
        rows.append(_measure(job, config.model_copy(update={"dehaze_variant": job.method}), run))
        write_tables(output, rows)
        on_measured(job.name)
    for number, (_, hazy, truth) in enumerate(sides, 1):
        runs = [(method, f"{output}/pairs-{number}/{method}") for method in methods]
        sheet(str(hazy), runs, truth=truth, most=20).save(Path(output) / f"sheet-pairs-{number}.jpg", quality=88)
    if real is not None:
        runs = [(method, f"{output}/real/{method}") for method in methods]
        sheet(real, runs).save(Path(output) / "sheet-real.jpg", quality=88)
    return rows


@dataclass(frozen=True)
class _Job:
    """One run of the evaluation."""

    name: str
    source: str
    output: str
    method: DehazingMethod
    reference: str | None


def _jobs(
    sides: Sequence[tuple[str, Path, Path]],
    output: str,
    methods: Sequence[DehazingMethod],
    real: str | None,
    clear: str | None,
    clear_sides: bool,
) -> list[_Job]:
    """Every run, in the order of the table."""
    jobs = []
    for number, (folder, hazy, truth) in enumerate(sides, 1):
        where = f"{output}/pairs-{number}"
        jobs += [_Job(f"{m}, {folder}", str(hazy), f"{where}/{m}", m, str(truth)) for m in methods]
        if clear_sides:
            name = f"{methods[0]}, clear side of {folder}"
            jobs.append(_Job(name, str(truth), f"{where}/clear", methods[0], str(truth)))
    if real is not None:
        jobs += [_Job(f"{m}, real haze", real, f"{output}/real/{m}", m, None) for m in methods]
    if clear is not None:
        jobs.append(_Job(f"{methods[0]}, clear photographs", clear, f"{output}/clear", methods[0], clear))
    return jobs


def _measure(job: _Job, config: RunConfig, run: Run) -> dict[str, Any]:
    """One run and the means over its committed rows."""
    run(job.source, job.output, config, Execution(reference=job.reference, max_failed_fraction=1.0, report=False))
    cursor = duckdb.execute(f"SELECT {MEASURES} FROM read_parquet($1, union_by_name = true)", [row_files(job.output)])  # noqa: S608
    names = [column[0] for column in cursor.description or []]
    return {"run": job.name, **dict(zip(names, cursor.fetchall()[0], strict=True))}


def write_tables(output: str, rows: list[dict[str, Any]]) -> None:
    """table.json, table.md and table.parquet in ``output``."""
    (Path(output) / "table.json").write_text(json.dumps(rows, indent=2))
    (Path(output) / "table.md").write_text(markdown(rows))
    pq.write_table(pa.Table.from_pylist(rows), Path(output) / "table.parquet")


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table as GitHub-flavoured Markdown; what was not measured stays empty."""
    names = list(rows[0])
    lines = ["| " + " | ".join(n.replace("_", " ") for n in names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = ["" if v is None else f"{v:.3f}" if isinstance(v, float) else cell(v) for v in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def sheet(source: str, runs: Sequence[tuple[str, str]], truth: Path | None = None, most: int = 40) -> Image.Image:
    """Rows of pictures: input, each run's result, the first haze map that a run made, and the truth where there is one."""
    outputs = {name: _committed(output) for name, output in runs}
    keys = sorted(set.intersection(*(set(o) for o in outputs.values())))[:most]
    lines: list[list[Image.Image]] = []
    for key in keys:
        pictures: list[Image.Image] = [Image.open(Path(source) / key)]
        pictures += [Image.open(Path(output) / outputs[name][key]["output_path"]) for name, output in runs]
        pictures.append(_haze_map([found[key] for found in outputs.values()]))
        lines.append(pictures + ([Image.open(truth / key)] if truth else []))
    return picture_rows(["input", *outputs, "haze map", *(["truth"] if truth else [])], lines)


def picture_rows(heads: Sequence[str], lines: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """White paper with a head above each column of pictures, all of one longest side; each row as high as its highest."""
    tiles = [[_tile(picture) for picture in line] for line in lines]
    heights = [max(tile.height for tile in line) + MARGIN for line in tiles]
    canvas = Image.new("RGB", (len(heads) * TILE, HEAD + sum(heights)), "white")
    draw = ImageDraw.Draw(canvas)
    for column, head in enumerate(heads):
        draw.text((column * TILE + 4, 4), head, fill="black")
    for line, top in zip(tiles, accumulate(heights, initial=HEAD), strict=False):
        for column, tile in enumerate(line):
            canvas.paste(tile, (column * TILE, top))
    return canvas


def _tile(picture: Image.Image) -> Image.Image:
    scale = (TILE - MARGIN) / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _haze_map(rows: Sequence[dict[str, Any]]) -> Image.Image:
    """The map of the first run that made one; nothing to see where none did."""
    maps = [row["haze_map"] for row in rows if row["haze_map"] is not None]
    return Image.open(io.BytesIO(maps[0]["bytes"])) if maps else Image.new("RGB", (TILE, 1), "white")


def _committed(output: str) -> dict[str, dict[str, Any]]:
    """The finished rows of a run by key."""
    query = "SELECT key, output_path, haze_map FROM read_parquet($1, union_by_name = true) WHERE status = 'ok'"
    found = duckdb.execute(query, [row_files(output)]).fetchall()
    return {key: {"output_path": path, "haze_map": haze} for key, path, haze in found}
