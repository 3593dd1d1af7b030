"""What every batch flow does: plan, process the open shards a window at a time, report."""

from __future__ import annotations

from typing import Any

from prefect import get_client, get_run_logger
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound

from flows.artifacts import Board
from flows.execution import Execution, judge, refuse_signature
from flows.run_id import begin_run
from flows.shards import process_shards
from tasks.config import RunConfig
from tasks.photos.listing import PassedOver
from tasks.prefect_tasks import plan, report
from tasks.shard.progress import PROGRESS
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store


def run_batch(source: str, output: str, config: RunConfig, execution: Execution) -> dict[str, Any]:
    """Finish the open shards of earlier plans, plan what is new, finish that, report.

    Raises TooManyFailures or Incomplete after everything that can be done is done.
    """
    refuse_signature(source)
    execution = execution.with_site_of(source)
    _require_limit(execution.concurrency_limit)
    planned = plan(source, output, config, execution.access(), execution.retry_rule())
    ledger = Ledger(open_store(output))
    todo = ledger.open_shards()
    get_run_logger().info("%s: %s photos planned, %s shards to do", output, planned["planned"], len(todo))
    if planned["passed_over"]:
        get_run_logger().info("passed over: %s", PassedOver(planned["passed_over"]))
    left = planned["planned"] - planned["committed"]
    PROGRESS.add("expected", left)
    board = Board(output, expected=left)
    context = FlowRunContext.get()
    run = begin_run(str(context.flow_run.id) if context and context.flow_run else None)
    errors = process_shards(todo, output, config, execution, board, run)
    history, summary = ledger.history(), board.close()
    ledger.checkpoint(history)
    status = history.status()
    if board.done:
        board.publish(report(output, board.shards, status)["markdown"] if execution.report else None)
    judge(summary, status, errors, execution.max_failed_fraction)
    return {**vars(status), **summary, "passed_over": planned["passed_over"]}


def _require_limit(name: str | None) -> None:
    """A limit that does not exist would not be enforced by Prefect: refuse to run without it."""
    if name is None:
        return
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            raise ValueError(
                f"there is no global concurrency limit {name}: make it by 'fixpoint setup --limit {name} --slots N'"
            ) from None
