"""What every batch flow does: plan, process the open shards a window at a time, report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from tasks.config import RunConfig
from tasks.progress import PROGRESS
from tasks.run_tasks import plan, process, report
from tasks.store.ledger import Ledger, RunStatus, ShardId
from tasks.store.objects import open_store

ONE_DEVICE: Any = ThreadPoolTaskRunner(max_workers=1)
"""One worker a device: a shard is wide enough to fill it."""


class Execution(BaseModel):
    """How a run is carried out; none of it changes a result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: int = Field(100, ge=1, le=1000, description="shards submitted and not yet finished, at most")
    max_failed_fraction: float = Field(0.05, ge=0, le=1, description="share of failed photos above which the run fails")
    reference: str | None = Field(None, description="folder of ground truth under the same names, for PSNR and SSIM")
    allow_http: bool = Field(False, description="read photos from http(s) addresses of a manifest")
    report: bool = Field(True, description="write report/ at the end")


class TooManyFailures(RuntimeError):
    """More photos failed than ``max_failed_fraction`` allows. Their rows say why; the others are done."""


class Incomplete(RuntimeError):
    """Some shards could not be committed; the same command goes on with them."""


def run_batch(source: str, output: str, config: RunConfig, execution: Execution) -> dict[str, Any]:
    """Finish the open shards of earlier plans, plan what is new, finish that, report.

    Raises TooManyFailures or Incomplete after everything that can be done is done.
    """
    logger = get_run_logger()
    planned = plan(source, output, config, execution.allow_http)
    ledger = Ledger(open_store(output))
    todo = ledger.open_shards()
    logger.info("%s: %s photos planned, %s shards to do", output, planned["planned"], len(todo))
    PROGRESS.add("expected", planned["planned"] - planned["committed"])
    done, errors = _process(todo, output, config, execution)
    status = ledger.status()
    summary = {**vars(status), "processed": sum(d["photos"] for d in done), "nfe": sum(d.get("nfe", 0) for d in done)}
    if execution.report and status.committed and done:
        create_markdown_artifact(report(output)["markdown"], key="report", description=f"Report on {output}")
    _table(done)
    _judge(status, errors, execution.max_failed_fraction)
    return summary


def _process(
    todo: list[ShardId], output: str, config: RunConfig, execution: Execution
) -> tuple[list[dict[str, Any]], list[str]]:
    """Submit shards a window at a time; results of those that finished and the errors of those that did not."""
    logger, done, errors = get_run_logger(), [], []
    if not todo:
        return [], []
    artifact = create_progress_artifact(0.0, key="progress", description=f"Shards of {output}")
    for future in _windowed(todo, output, config, execution):
        future.wait()
        if future.state.is_completed():
            done.append(future.result())
            logger.info(
                "shard %(plan)06d-%(shard)05d: %(photos)d photos, %(failed)d failed, %(seconds).1f s",
                {"failed": 0, "seconds": 0, **done[-1]},
            )
        else:
            errors.append(str(future.state.message))
        update_progress_artifact(artifact, 100 * (len(done) + len(errors)) / len(todo))  # type: ignore[arg-type]
    return done, errors


def _windowed(
    todo: list[ShardId], output: str, config: RunConfig, execution: Execution
) -> Iterator[PrefectFuture[Any]]:
    """Futures as they finish, never more than a window outstanding."""
    waiting: list[PrefectFuture[Any]] = []
    remaining = iter(todo)
    while True:
        for shard in remaining:
            waiting.append(process.submit(output, config, shard.plan, shard.shard, execution.reference))
            if len(waiting) >= execution.window:
                break
        if not waiting:
            return
        finished = next(iter(as_completed(waiting)))
        waiting.remove(finished)
        yield finished


def _table(done: list[dict[str, Any]]) -> None:
    names = ("plan", "shard", "photos", "failed", "nfe", "seconds")
    rows = [{name: d.get(name) for name in names} for d in done[:1000]]
    if rows:
        create_table_artifact(rows, key="shards", description="Shards committed by this run")


def _judge(status: RunStatus, errors: list[str], max_failed_fraction: float) -> None:
    if errors:
        raise Incomplete(
            f"{status.open_shards} shards are open, run the same command again to go on. First error: {errors[0]}"
        )
    if status.committed and status.failed / status.committed > max_failed_fraction:
        raise TooManyFailures(
            f"{status.failed} of {status.committed} photos failed, more than the {max_failed_fraction:.0%} allowed; "
            "the report and the rows with status 'failed' say why"
        )
