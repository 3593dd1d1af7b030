"""The Prefect tasks of a run: thin wrappers. A task is a shard's worth of work and passes small dicts, never tensors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.tasks import Task, exponential_backoff

from fpcore.evaluation.rle_masks import check_runs
from fpcore.inversion.invert import Cancelled
from tasks.config import RunConfig
from tasks.edit_settings import blend_pair, edit_settings
from tasks.photos.listing import PassedOver
from tasks.photos.sources import list_photos
from tasks.report.page import write_report
from tasks.shard import cancellation  # the module, not its event: tasks are pickled with their globals
from tasks.shard.method import check_model, inversion_method
from tasks.shard.model_cache import model_for
from tasks.shard.process import ShardSummary, process_shard, versions
from tasks.store.access import SOURCE_ONLY, Access
from tasks.store.errors import StoreError
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store


class ShardTimeout(RuntimeError):
    """A shard took longer than the run allows. Not transient: it would again."""


def is_transient(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again can help: storage that was unreachable, not a full disk or a wrong setting."""
    del task, run
    try:
        state.result()
    except StoreError as error:
        return error.transient
    except Exception as error:
        return isinstance(error, ConnectionError | TimeoutError)
    return False


def check(config: RunConfig) -> None:
    """Raise ValueError now for a model, method or number of steps that would fail every shard later."""
    inversion_method(config)
    edit_settings(config)
    blend_pair(config.blended_word)
    check_runs(config.mask or ())
    if config.operation != "dehaze" or config.dehaze_variant != "dcp":
        # In a thread that ends: OpenMP keeps a team for each thread that ever computed. Were one kept here, teams would
        # outnumber the processors and wait asleep instead of spinning: shards took 1.4 times as long on two cores.
        with ThreadPoolExecutor(1) as elsewhere:
            model = elsewhere.submit(model_for, config).result()
        check_model(config, model)


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="plan", timeout_seconds=4 * 3600)
def plan(source: str, output: str, config: RunConfig, access: Access = SOURCE_ONLY) -> dict[str, Any]:
    """Check the configuration, make the output ours and plan the photos that no plan has claimed yet.

    Raises ValueError or StoreError before any photo is touched.
    """
    check(config)
    ledger = Ledger(open_store(output))
    ledger.create_run(config.identity(), versions())
    passed = PassedOver()
    added = ledger.plan_new(list_photos(source, output=output, access=access, passed=passed), config.shard_size)
    status = ledger.status()
    return {
        "plans_added": added,
        "passed_over": dict(passed),
        "planned": status.planned,
        "committed": status.committed,
        "open_shards": status.open_shards,
    }


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
) -> ShardSummary:
    """Process and commit one shard, holding a slot of the global concurrency limit ``limit`` if one is named.

    Raises ShardTimeout between two network calls once ``timeout`` seconds have passed, ``Cancelled`` when the run is
    interrupted; nothing of the shard is committed then.
    """
    with concurrency(limit, strict=True, raise_on_lease_renewal_failure=False) if limit else nullcontext():
        try:
            return process_shard(
                output,
                config,
                plan,
                shard,
                reference=reference,
                access=access,
                should_stop=cancellation.or_after(timeout),
            )
        except Cancelled:
            if cancellation.requested():
                raise
            raise ShardTimeout(
                f"shard {plan}-{shard} was stopped after {timeout:.0f} s: allow more by shard_timeout, or plan smaller "
                "shards by shard_size"
            ) from None


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="report", timeout_seconds=3600)
def report(output: str) -> dict[str, Any]:
    """Write the report from the committed shards."""
    summary = write_report([output])
    return {"markdown": summary.markdown}
