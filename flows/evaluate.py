"""``fixpoint evaluate``: the field's protocols as ordinary runs, a table beside them, and a sheet to look at."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
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
TILE = 192


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
    sides = [find_pairs(folder) for folder in pairs]
    first = config.model_copy(update={"dehaze_variant": methods[0]})
    rows = []
    for number, (hazy, truth) in enumerate(sides, 1):
        where = f"{output}/pairs-{number}"
        for method in methods:
            chosen = config.model_copy(update={"dehaze_variant": method})
            rows.append(_measure(f"{method}, {pairs[number - 1]}", str(hazy), f"{where}/{method}", chosen, str(truth)))
        name = f"{methods[0]}, clear side of {pairs[number - 1]}"
        rows.append(_measure(name, str(truth), f"{where}/clear", first, str(truth)))
        pictures = sheet(str(hazy), [(v, f"{where}/{v}") for v in methods], truth=truth, most=20)
        pictures.save(Path(output) / f"sheet-pairs-{number}.jpg", quality=88)
    if real is not None:
        for method in methods:
            chosen = config.model_copy(update={"dehaze_variant": method})
            rows.append(_measure(f"{method}, real haze", real, f"{output}/real/{method}", chosen, None))
        sheet(real, [(v, f"{output}/real/{v}") for v in methods]).save(Path(output) / "sheet-real.jpg", quality=88)
    if clear is not None:
        rows.append(_measure(f"{methods[0]}, clear photographs", clear, f"{output}/clear", first, clear))
    if not rows:
        raise ValueError("nothing to evaluate: name folders of pairs, --real or --clear")
    (Path(output) / "table.json").write_text(json.dumps(rows, indent=2))
    (Path(output) / "table.md").write_text(markdown(rows))
    pq.write_table(pa.Table.from_pylist(rows), Path(output) / "table.parquet")
    return rows


def _measure(name: str, source: str, output: str, config: RunConfig, reference: str | None) -> dict[str, Any]:
    """One run and the means over its committed rows."""
    run_batch(source, output, config, Execution(reference=reference, max_failed_fraction=1.0, report=False))
    cursor = duckdb.execute(f"SELECT {MEASURES} FROM read_parquet($1, union_by_name = true)", [row_files(output)])  # noqa: S608
    names = [column[0] for column in cursor.description or []]
    return {"run": name, **dict(zip(names, cursor.fetchall()[0], strict=True))}


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table as GitHub-flavoured Markdown; what was not measured stays empty."""
    names = list(rows[0])
    lines = ["| " + " | ".join(n.replace("_", " ") for n in names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = ["" if v is None else f"{v:.3f}" if isinstance(v, float) else cell(v) for v in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def sheet(source: str, runs: Sequence[tuple[str, str]], truth: Path | None = None, most: int = 40) -> Image.Image:
    """Rows of pictures: input, each run's result, the first run's haze map, and the truth where there is one."""
    outputs = {name: _committed(output) for name, output in runs}
    keys = sorted(set.intersection(*(set(o) for o in outputs.values())))[:most]
    heads = ["input", *outputs, "haze map", *(["truth"] if truth else [])]
    canvas = Image.new("RGB", (len(heads) * TILE, 20 + len(keys) * TILE), "white")
    draw = ImageDraw.Draw(canvas)
    for column, head in enumerate(heads):
        draw.text((column * TILE + 4, 4), head, fill="black")
    for line, key in enumerate(keys):
        pictures = [Image.open(Path(source) / key)]
        pictures += [Image.open(Path(output) / outputs[name][key]["output_path"]) for name, output in runs]
        pictures.append(Image.open(io.BytesIO(outputs[runs[0][0]][key]["haze_map"]["bytes"])))
        pictures += [Image.open(truth / key)] if truth else []
        for column, picture in enumerate(pictures):
            tile = picture.convert("RGB")
            if tile.width < TILE:
                tile = tile.resize((TILE, TILE), Image.Resampling.BICUBIC)
            tile.thumbnail((TILE - 4, TILE - 4))
            canvas.paste(tile, (column * TILE, 20 + line * TILE))
    return canvas


def _committed(output: str) -> dict[str, dict[str, Any]]:
    """The finished rows of a run by key."""
    query = "SELECT key, output_path, haze_map FROM read_parquet($1, union_by_name = true) WHERE status = 'ok'"
    found = duckdb.execute(query, [row_files(output)]).fetchall()
    return {key: {"output_path": path, "haze_map": haze} for key, path, haze in found}
