"""The Prefect tasks of a run: thin wrappers. A task is a shard's worth of work and passes small dicts, never tensors."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.tasks import Task, exponential_backoff

from tasks import steps
from tasks.config import RunConfig, RunOrigin
from tasks.shard.process import ShardSummary
from tasks.store.access import SOURCE_ONLY, Access
from tasks.store.error_codes import NIGHTLY, RetryRule
from tasks.store.ledger import RunStatus


def is_transient(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again can help: storage that was unreachable, not a full disk or a wrong setting."""
    del task, run
    try:
        state.result()
    except Exception as error:
        return steps.may_succeed_again(error)
    return False


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="plan", timeout_seconds=4 * 3600)
def plan(
    source: str, output: str, config: RunConfig, access: Access = SOURCE_ONLY, retry: RetryRule = NIGHTLY
) -> dict[str, Any]:
    """Check the configuration, make the output ours and plan what is new and the failed photos that ``retry`` admits.

    Raises ValueError or StoreError before any photo is touched.
    """
    return steps.plan(source, output, config, access, retry)


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    task_run_name="shard {plan:06d}-{shard:05d}",
    tags=["shard"],
    retries=3,
    retry_delay_seconds=exponential_backoff(5),
    retry_jitter_factor=0.5,
    retry_condition_fn=is_transient,
)
def process(
    output: str,
    config: RunConfig,
    plan: int,
    shard: int,
    reference: str | None = None,
    timeout: float = 3600,
    limit: str | None = None,
    access: Access = SOURCE_ONLY,
    run: RunOrigin = RunOrigin(),
) -> ShardSummary:
    """Process and commit one shard, holding a slot of the global concurrency limit ``limit`` if one is named.

    Raises ShardTimeout between two network calls once ``timeout`` seconds have passed, ``Cancelled`` when the run is
    interrupted; nothing of the shard is committed then.
    """
    with concurrency(limit, strict=True, raise_on_lease_renewal_failure=False) if limit else nullcontext():
        return steps.process(output, config, plan, shard, reference, timeout, access, run)


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="report", timeout_seconds=3600)
def report(output: str, shards: Sequence[tuple[int, int]], status: RunStatus) -> dict[str, Any]:
    """Write the report on what a run has committed: pairs of plan and shard; ``status`` is that of the whole output."""
    return steps.report(output, shards, status)
