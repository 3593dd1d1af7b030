"""The flow ``invert``."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.pipeline import ONE_DEVICE, Execution, run_batch
from tasks.config import RunConfig


@flow(
    name="invert",
    flow_run_name="invert {source}",
    description="Invert photos to latents whose regeneration gives them back.",
    task_runner=ONE_DEVICE,
    persist_result=False,
)
def invert(
    source: str, output: str, config: RunConfig = RunConfig(operation="invert"), execution: Execution = Execution()
) -> dict[str, Any]:
    """Invert every photo of ``source`` that ``output`` has no row for."""
    return run_batch(source, output, config.model_copy(update={"operation": "invert"}), execution)
