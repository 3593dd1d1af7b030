"""``fixpoint evaluate restore``: photographs damaged on purpose, restored, and measured against what they were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from prefect import flow

from flows.batch import run_batch
from flows.evaluate import picture_rows, write_tables
from flows.execution import Execution
from tasks.config import RunConfig, Task
from tasks.evaluation.restoration import CASES, OURS, Case, damage, measure, results_of

MAX_ON_SHEET = 16


@flow(
    name="evaluate-restore",
    flow_run_name="evaluate restoration of {clear}",
    description="Photographs without colours, with holes and reduced, restored and measured beside plain ways to do it.",
    persist_result=False,
)
def evaluate_restore(
    clear: str,
    output: str,
    config: RunConfig = RunConfig(pretrained_model_name_or_path="builtin:scenes"),
    tasks: list[Task] = ["colorize", "inpaint", "super-resolution"],  # noqa: B006 (Prefect copies it)
    side: int = 384,
    most: int = 60,
    lpips: str | None = None,
) -> list[dict[str, Any]]:
    """Damage, restore and measure; writes table.json, table.md, table.parquet, and a sheet for each task.

    Holes cover 5 to 15 % of a picture, rectangles, blobs or scratches; reduced pictures are averages over 2 × 2 and 4 × 4
    pixels. Inpainting is measured inside the holes alone.

    Args:
        clear: folder of photographs in colour
        output: folder that damaged photographs, runs, tables and sheets go to
        config: what is done to every photo, but for the task
        tasks: which tasks
        side: longest side of the photographs in pixels
        most: photographs, at most
        lpips: weights of SqueezeNet 1.1; none: LPIPS is not measured
    """
    cases = [case for case in CASES if case.task in tasks]
    settings = [_settings(config, case, output) for case in cases]
    damage(clear, output, cases, side, most)
    execution, rows = Execution(max_failed_fraction=1.0, report=False), []
    for case, chosen in zip(cases, settings, strict=True):
        run_batch(f"{output}/{case.name}/damaged", f"{output}/{case.name}/run", chosen, execution)
        rows += measure(output, case, lpips)
        heads = ["damaged", *(row["method"] for row in rows if row["task"] == case.name and row["method"] != OURS)]
        sheet([*heads, OURS, "truth"], output, case).save(Path(output) / f"sheet-{case.name}.jpg", quality=90)
    write_tables(output, rows)
    return rows


def _settings(config: RunConfig, case: Case, output: str) -> RunConfig:
    """Those of one run. Raises ValueError where they do not go together."""
    own: dict[str, Any] = {"operation": "restore", "task": case.task}
    if case.scale > 1:
        own["scale"] = case.scale
    if case.task == "inpaint":
        own["mask_folder"] = f"{output}/{case.name}/masks"
    return RunConfig(**config.model_dump(exclude_unset=True) | own)


def sheet(heads: Sequence[str], output: str, case: Case) -> Image.Image:
    """Rows of pictures to look at, some of all."""
    lines = list(results_of(output, case).values())[:MAX_ON_SHEET]
    return picture_rows(heads, [[Image.open(path) for path in line] for line in lines])
