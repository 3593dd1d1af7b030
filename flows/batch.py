"""What every batch flow does: plan, process the open shards a window at a time, report, tell."""

from __future__ import annotations

import time
from typing import Any

from prefect import get_client, get_run_logger
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled

from flows.ad_hoc import with_deployment
from flows.artifacts import Board
from flows.current import keep_current
from flows.events import emit
from flows.execution import Execution, judge, refuse_signature
from flows.figures import Figures, failed_of, figures_of, own_shards, shown, warn
from flows.hooks import publish_failures
from flows.metrics import write_metrics
from flows.run_id import begin_run
from flows.shards import process_shards
from tasks.config import RunConfig, RunOrigin
from tasks.photos.listing import PassedOver
from tasks.prefect_tasks import plan, report
from tasks.report.place import REPORT, browser_address
from tasks.shard.progress import PROGRESS
from tasks.store.ledger import Ledger, RunStatus
from tasks.store.objects import open_store


def run_batch(source: str, output: str, config: RunConfig, execution: Execution) -> dict[str, Any] | State[Any]:
    """Finish the open shards of earlier plans, plan what is new, finish that, report; the counts.

    Somebody who interrupts it gets the state Cancelled.

    Raises TooManyFailures or Incomplete after everything that can be done is done.
    """
    refuse_signature(source)
    config, execution = with_deployment(config, execution)
    context = FlowRunContext.get()
    run = begin_run(str(context.flow_run.id) if context and context.flow_run else None)
    try:
        status, errors, done = _work(source, output, config, execution.with_site_of(source), run)
    except KeyboardInterrupt:
        return _cancelled()
    except Exception as error:
        emit(Figures(config.operation, shown(output), run.run_id, error=str(error)), flow_run_id=run.flow_run_id)
        raise
    judge(done, status, errors, execution.max_failed_fraction)
    return {**vars(status), **done}


def _cancelled() -> State[Any]:
    """The end of a run that was interrupted; what is left is told as after any other end but the ordinary."""
    state: State[Any] = Cancelled(message="Interrupted. The same run again goes on where this one left off.")
    context = FlowRunContext.get()
    if context and context.flow and context.flow_run:
        publish_failures(context.flow, context.flow_run, state)
    return state


def _work(
    source: str, output: str, config: RunConfig, execution: Execution, run: RunOrigin
) -> tuple[RunStatus, list[str], dict[str, Any]]:
    """Everything that can be done, and told; the output's status, errors of shards, and the run's own counts."""
    begun = time.monotonic()
    _require_limit(execution.concurrency_limit)
    planned = plan(source, output, config, execution.access(), execution.retry_rule())
    ledger = Ledger(open_store(output))
    todo = ledger.open_shards()
    get_run_logger().info("%s: %s photos planned, %s shards to do", output, planned["planned"], len(todo))
    if planned["passed_over"]:
        get_run_logger().info("passed over: %s", PassedOver(planned["passed_over"]))
    left = planned["planned"] - planned["committed"]
    PROGRESS.add("expected", left)
    board = Board(output, expected=left, browse=execution.browse)
    errors = process_shards(todo, output, config, execution, board, run)
    history, summary = ledger.history(), board.close()
    ledger.checkpoint(history)
    status = history.status()
    keep_current(source, output, execution)
    _tell(board, ledger, figures_of(config.operation, output, run.run_id, board.done, status, begun), status, execution)
    return status, errors, {**summary, "passed_over": planned["passed_over"]}


def _tell(board: Board, ledger: Ledger, figures: Figures, status: RunStatus, execution: Execution) -> None:
    """What came of the run: in the log, in artifacts, as metrics and as an event."""
    failed = failed_of(ledger, board.done)
    warn(failed, figures, get_run_logger())
    board.publish_failed(failed, figures.failed)
    if own := own_shards(board.done):
        board.publish(report(board.output, own, status)["markdown"] if execution.report else None)
    write_metrics(figures)
    context = FlowRunContext.get()
    link = browser_address(board.output, REPORT, execution.browse) if own and execution.report else None
    emit(figures, link, str(context.flow_run.id) if context and context.flow_run else None)


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
