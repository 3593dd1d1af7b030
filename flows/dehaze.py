"""The flow ``dehaze``."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.pipeline import ONE_DEVICE, Execution, run_batch
from tasks.config import RunConfig


@flow(
    name="dehaze",
    flow_run_name="dehaze {source}",
    description="Dehaze the photos of a folder, bucket or manifest.",
    task_runner=ONE_DEVICE,
    persist_result=False,
    validate_parameters=True,
)
def dehaze(
    source: str, output: str, config: RunConfig = RunConfig(), execution: Execution = Execution()
) -> dict[str, Any]:
    """Dehaze every photo of ``source`` that ``output`` has no row for."""
    return run_batch(source, output, config.model_copy(update={"operation": "dehaze"}), execution)
