"""``fixpoint evaluate pie-bench``: the benchmark as ordinary editing runs, its measures, and a sheet to look at."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image
from prefect import flow

from flows.batch import run_batch
from flows.evaluate import Run
from flows.execution import Execution
from tasks.config import RunConfig
from tasks.evaluation.contact_sheet import SheetRow, edit_sheet
from tasks.evaluation.pie_bench import measure_run, published_rows
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store, read_uri
from tasks.text import markdown as cell

NAMES = {
    "ddim": "P2P",
    "intra-path": "P2P + fixed point (intra)",
    "inter-path": "P2P + optimised (inter)",
    "certified": "P2P + certified",
}
"""Inversion methods under the names of the paper's table."""
HEADS = {
    "structure_distance": "structure ×10³",
    "psnr_unedit_part": "PSNR",
    "lpips_unedit_part": "LPIPS ×10³",
    "mse_unedit_part": "MSE ×10⁴",
    "ssim_unedit_part": "SSIM ×10²",
    "clip_similarity_target_image": "CLIP whole",
    "clip_similarity_target_image_edit_part": "CLIP edited",
}
MAX_ON_SHEET = 24
Table = list[dict[str, Any]]


@flow(
    name="evaluate-pie-bench",
    flow_run_name="evaluate pie-bench {data}",
    description="PIE-Bench: seven measures for every inversion method and guidance mode, editing and reconstruction.",
    persist_result=False,
)
def evaluate_pie_bench(
    data: str,
    output: str,
    config: RunConfig = RunConfig(operation="edit"),
    methods: Sequence[str] = ("ddim", "intra-path", "inter-path", "certified"),
    guidance: Sequence[str] = ("none",),
    judges: Mapping[str, str | None] = {},
) -> Table:
    """Edit every picture by every method under every guidance mode, each a resumable run of its own in ``output``.

    Writes ``pie-bench.parquet`` beside each run, ``table.json``, ``table.md`` and ``sheet.png``. Masks measure, they do
    not steer: the edits never see them.

    Args:
        data: folder with mapping_file.json and annotation_images/
        output: folder that the runs, tables and the sheet go to
        config: what is done to every picture, but for method and guidance mode
        methods: inversion methods
        guidance: guidance modes
        judges: paths of the weights of lpips, dino and clip; a measure without weights is unavailable, with the reason
    """
    return measure_editing(data, output, config, methods, guidance, judges)


def measure_editing(
    data: str,
    output: str,
    config: RunConfig,
    methods: Sequence[str],
    guidance: Sequence[str],
    judges: Mapping[str, str | None],
    *,
    run: Run = run_batch,
    measure: Callable[..., Table] = measure_run,
    on_measured: Callable[[str], None] = lambda name: None,
) -> Table:
    """What the flow does; arguments as there. ``run``, ``measure``: what does a run and measures it, with Prefect or
    without. ``on_measured``: told each run's place when its rows, and those before it, are in the tables and on the sheet.
    """
    mapping = f"{data.rstrip('/')}/mapping_file.json"
    execution = Execution(max_failed_fraction=1.0, report=False)
    # every setting is checked before the first picture
    configs = {(method, mode): _configured(config, method, mode) for mode in guidance for method in methods}
    measured: Table = []
    done: list[str] = []
    table: Table = []
    for (method, mode), chosen in configs.items():
        place = _run_of(output, method, mode)
        run(mapping, place, chosen, execution)
        measured += measure(mapping, place, {"method": method, "guidance": mode}, dict(judges), config.device)
        done += [method] if mode == guidance[0] else []
        table = [*measured, *published_rows()]
        if deviations := protocol_deviations(config):
            table[0]["deviations"] = deviations
        _publish(output, table, done, guidance[0])
        on_measured(place)
    return table


def protocol_deviations(config: RunConfig) -> list[str]:
    """How a configuration departs from the benchmark's own protocol, in words."""
    own = {"num_inference_steps": 50, "guidance_scale": 7.5, "seed": 1234, "timestep_spacing": "leading",
           "steps_offset": 0, "tokens": "refine", "cross_replace": 0.4, "self_replace": 0.6, "blend_start": 0.2,
           "blend_threshold": 0.3, "amplify": 2.0, "padding": "position"}  # fmt: skip
    return [
        f"{name} {getattr(config, name)} instead of {value}"
        for name, value in own.items()
        if getattr(config, name) != value
    ]


def _configured(config: RunConfig, method: str, mode: str) -> RunConfig:
    settings = config.model_dump() | {"operation": "edit", "method": method, "guidance": mode, "masks": False}
    return RunConfig(**settings)


def _run_of(output: str, method: str, mode: str) -> str:
    return f"{output.rstrip('/')}/{method}+{mode}"


def _publish(output: str, table: Table, methods: Sequence[str], mode: str) -> None:
    store, sheet = open_store(output), io.BytesIO()
    store.put("table.json", json.dumps(table, indent=1).encode())
    store.put("table.md", markdown(table).encode())
    _sheet({method: _run_of(output, method, mode) for method in methods}).save(sheet, "PNG")
    store.put("sheet.png", sheet.getvalue())


# The table


def markdown(table: Table) -> str:
    """Three GitHub-flavoured tables: editing beside the published figures, reconstruction, editing by type."""
    editing, reconstruction = (
        [row for row in table if row["kind"] == kind and row["type"] == "all"] for kind in ("editing", "reconstruction")
    )
    by_type = [row for row in table if row["kind"] == "editing" and row["type"] != "all"]
    parts = [
        "## Editing, outside the mask (CLIP: whole and inside)\n", _lines(editing),
        "\n## Reconstruction, whole picture\n", _lines(reconstruction),
        "\n## Editing by type\n", _lines(by_type, with_type=True),
        "\n" + _missing(table),
    ]  # fmt: skip
    return "\n".join(parts)


def _lines(rows: Table, with_type: bool = False) -> str:
    heads = [*(["type"] if with_type else []), "method", "guidance", "pictures", *HEADS.values()]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in sorted(rows, key=lambda r: str(r["type"])) if with_type else rows:
        measured = not row["published"]
        first = [cell(row["type"])] if with_type else []
        name = NAMES.get(row["method"], row["method"]) if measured else f"{row['method']} (published)"
        pictures = (
            f"{row['pictures']} of {row['planned']}" if measured and not with_type else row.get("pictures", "700")
        )
        cells: list[Any] = [
            *first,
            name,
            row["guidance"] or "",
            str(pictures),
            *(_cell(row[metric]) for metric in HEADS),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(measure: dict[str, Any]) -> str:
    return "unavailable" if measure["value"] is None else f"{measure['value']:.2f}"


def _missing(table: Table) -> str:
    """Why measures are unavailable, each reason once."""
    reasons = {
        f"- {HEADS[metric]}: {cell(row[metric]['reason'])}"
        for row in table
        for metric in HEADS
        if not row["published"] and row[metric]["value"] is None and row[metric]["reason"]
    }
    deviations = [note for row in table for note in row.get("deviations", ())]
    head = "" if not deviations else f"Unlike the benchmark's protocol: {'; '.join(deviations)}.\n\n"
    head += "Rows marked as published are the literature's (SD 1.4, 50 steps, w 7.5), not measured here.\n"
    return head + ("\nUnavailable:\n" + "\n".join(sorted(reasons)) + "\n" if reasons else "")


# The sheet


def _sheet(runs: Mapping[str, str]) -> Image.Image:
    """Source | each method, for the first pictures that every method has finished."""
    finished = [_finished(run) for run in runs.values()]
    keys = sorted(set.intersection(*(set(rows) for rows in finished)))[:MAX_ON_SHEET]
    rows = []
    for key in keys:
        results = [Image.open(io.BytesIO(found[key]["output"]["bytes"])) for found in finished]
        source = Image.open(io.BytesIO(read_uri(finished[0][key]["source_uri"])))
        rows.append(SheetRow([source, *results], finished[0][key]["prompt"], finished[0][key]["target_prompt"]))
    return edit_sheet(["source", *(NAMES.get(method, method) for method in runs)], rows)


def _finished(run: str) -> dict[str, dict[str, Any]]:
    """The rows of a run that came out fine, by key; as many as a sheet may need."""
    columns = ["key", "status", "source_uri", "prompt", "target_prompt", "output"]
    ledger = Ledger(open_store(run))
    found: dict[str, dict[str, Any]] = {}
    for shard in sorted(ledger.committed()):
        rows = ledger.read_shard(*shard, columns).to_pylist()
        found |= {row["key"]: row for row in rows if row["status"] == "ok"}
        if len(found) >= 2 * MAX_ON_SHEET:
            break
    return found
