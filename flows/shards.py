"""The shards of a run through a runner or a work pool, in passes until all are committed or given up."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from itertools import islice
from queue import SimpleQueue
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture

from flows.artifacts import Board
from flows.execution import Ended, Execution, Incomplete
from flows.runners import open_runner
from flows.work_pool import fan_out
from tasks.config import RunConfig, RunOrigin
from tasks.prefect_tasks import process
from tasks.store.ledger import Ledger, ShardId
from tasks.store.objects import open_store


def process_shards(
    todo: list[ShardId], output: str, config: RunConfig, execution: Execution, board: Board, run: RunOrigin
) -> list[str]:
    """Process shards; the errors of those that could not be. Those lost with their worker get further passes."""
    ledger, errors = Ledger(open_store(output)), list[str]()
    work = fan_out if execution.runner == "work-pool" else _run
    for attempt in range(execution.attempts if todo else 0):
        failures = []
        with closing(work(todo, output, config, execution, run, attempt)) as endings:
            for ended in endings:
                if ended.done is not None:
                    board.add(ended.done)
                else:
                    failures.append(ended)
        committed = ledger.committed_among(todo)
        todo = [shard for shard in todo if shard not in committed]
        errors = [str(failure.error) for failure in failures] if todo else []
        if not todo or not any(failure.lost for failure in failures):
            break
        board.note(f"{len(todo)} shards were lost with their workers and are shared out again")
    return errors


def _run(
    todo: list[ShardId], output: str, config: RunConfig, execution: Execution, run: RunOrigin, attempt: int
) -> Generator[Ended]:
    """Endings as they come, never more than a window outstanding."""
    del attempt
    ready: SimpleQueue[PrefectFuture[Any]] = SimpleQueue()
    settings = {
        "output": output,
        "config": config,
        "reference": execution.reference,
        "run": run,
        "timeout": execution.shard_timeout,
        "limit": execution.concurrency_limit,
        "access": execution.access(),
    }
    with open_runner(execution) as runner:
        remaining, outstanding = iter(todo), 0
        while True:
            for shard in islice(remaining, execution.window - outstanding):
                runner.submit(process, {**settings, **shard._asdict()}).add_done_callback(ready.put)
                outstanding += 1
            if not outstanding:
                return
            yield _ended(ready.get())
            outstanding -= 1


def _ended(future: PrefectFuture[Any]) -> Ended:
    """What became of a shard. An exception of the future itself, or a crash, is the worker's death."""
    try:
        future.wait()
    except Exception as error:
        return Ended(error=f"{type(error).__name__}: {error}", lost=True)
    if future.state.is_completed():
        return Ended(done=future.result())
    return Ended(error=str(future.state.message), lost=future.state.is_crashed())


@flow(
    name="shards",
    flow_run_name="{name}",
    description="One worker's share of a run on a work pool. Started by a run with runner=work-pool, not by hand.",
    persist_result=False,
)
def shards(
    name: str,
    output: str,
    config: RunConfig,
    shards: list[tuple[int, int]],
    execution: Execution = Execution(),
    run: RunOrigin = RunOrigin(),
) -> dict[str, Any]:
    """Process a share of a run in this process.

    Args:
        name: name of the flow run
        output: output of the run
        config: configuration of the run
        shards: pairs of plan and shard
        execution: how to carry it out; runner and workers are those of one process
        run: the run that this is a share of
    """
    del name
    here = execution.model_copy(update={"runner": "thread", "workers": 1})
    todo = [ShardId(*pair) for pair in shards]
    board = Board(output, expected=len(todo) * config.shard_size, browse=execution.browse)
    errors = process_shards(todo, output, config, here, board, run)
    summary = board.close()
    if errors:
        raise Incomplete(f"{len(errors)} shards failed. First error: {errors[0]}")
    return summary
