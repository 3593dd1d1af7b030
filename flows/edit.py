"""The flow ``edit``."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.pipeline import ONE_DEVICE, Execution, run_batch
from tasks.config import RunConfig


@flow(
    name="edit",
    flow_run_name="edit {source}",
    description="Edit photos by words: Prompt-to-Prompt on fixed-point inversions.",
    task_runner=ONE_DEVICE,
    persist_result=False,
)
def edit(
    source: str, output: str, config: RunConfig = RunConfig(operation="edit"), execution: Execution = Execution()
) -> dict[str, Any]:
    """Edit every photo of ``source`` that ``output`` has no row for."""
    return run_batch(source, output, config.model_copy(update={"operation": "edit"}), execution)
