"""The flow ``dehaze``."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.batch import run_batch
from flows.execution import Execution
from flows.forms import NOTHING_SAID, DehazeSettings
from flows.hooks import HOOKS


@flow(
    name="dehaze",
    flow_run_name="dehaze {source} to {output}",
    description="Dehaze the photos of a folder, bucket or manifest.",
    persist_result=False,
    **HOOKS,
)
def dehaze(
    source: str, output: str, config: DehazeSettings = NOTHING_SAID, execution: Execution = Execution()
) -> dict[str, Any] | State[Any]:
    """Dehaze every photo of ``source`` that ``output`` has no row for.

    Args:
        source: folder, glob, s3:// prefix, or manifest (CSV, JSONL, Parquet, PIE-Bench JSON)
        output: folder or s3:// prefix that the results go to; the same output again does only what is new
        config: what is done to every photo
        execution: how the run is carried out
    """
    return run_batch(source, output, config.doing("dehaze"), execution)
