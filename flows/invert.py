"""The flow ``invert``."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.batch import run_batch
from flows.execution import Execution
from flows.forms import NOTHING_SAID, InvertSettings
from flows.hooks import HOOKS


@flow(
    name="invert",
    flow_run_name="invert {source} to {output}",
    description="Invert photos to latents whose regeneration gives them back.",
    persist_result=False,
    **HOOKS,
)
def invert(
    source: str, output: str, config: InvertSettings = NOTHING_SAID, execution: Execution = Execution()
) -> dict[str, Any] | State[Any]:
    """Invert every photo of ``source`` that ``output`` has no row for.

    Args:
        source: folder, glob, s3:// prefix, or manifest (CSV, JSONL, Parquet, PIE-Bench JSON)
        output: folder or s3:// prefix that the results go to; the same output again does only what is new
        config: what is done to every photo
        execution: how the run is carried out
    """
    return run_batch(source, output, config.doing("invert"), execution)
