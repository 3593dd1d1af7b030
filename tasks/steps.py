"""The steps of a run: check and plan, process a shard, report. Prefect's tasks wrap them; a small run calls them plainly."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fpcore.evaluation.rle_masks import check_runs
from fpcore.inversion.invert import Cancelled
from tasks.config import RunConfig, RunOrigin
from tasks.edit_settings import blend_pair, edit_settings
from tasks.photos.listing import PassedOver
from tasks.photos.sources import list_photos
from tasks.shard import cancellation  # the module, not its event: tasks are pickled with their globals
from tasks.shard.method import check_model, inversion_method
from tasks.shard.model_cache import model_for
from tasks.shard.process import ShardSummary, process_shard, versions
from tasks.store.access import SOURCE_ONLY, Access
from tasks.store.error_codes import NIGHTLY, RetryRule
from tasks.store.errors import StoreError
from tasks.store.ledger import Ledger, RunStatus, ShardId
from tasks.store.objects import open_store


class ShardTimeout(RuntimeError):
    """A shard took longer than the run allows. Not transient: it would again."""


def may_succeed_again(error: BaseException | None) -> bool:
    """Whether trying again can help: storage that was unreachable, not a full disk or a wrong setting."""
    return error.transient if isinstance(error, StoreError) else isinstance(error, ConnectionError | TimeoutError)


def check(config: RunConfig) -> None:
    """Raise ValueError now for a model, method or number of steps that would fail every shard later."""
    inversion_method(config)
    edit_settings(config)
    blend_pair(config.blended_word)
    check_runs(config.mask or ())
    if config.needs_model:
        # In a thread that ends: OpenMP keeps a team for each thread that ever computed. Were one kept here, teams would
        # outnumber the processors and wait asleep instead of spinning: shards took 1.4 times as long on two cores.
        with ThreadPoolExecutor(1) as elsewhere:
            model = elsewhere.submit(model_for, config).result()
        check_model(config, model)


def plan(
    source: str,
    output: str,
    config: RunConfig,
    access: Access = SOURCE_ONLY,
    retry: RetryRule = NIGHTLY,
    ledger: Ledger | None = None,
) -> dict[str, Any]:
    """Check the configuration, make the output ours and plan what is new and the failed photos that ``retry`` admits.

    ``ledger``: of the output, if the caller has it, so that what it has read is not read again.
    Raises ValueError or StoreError before any photo is touched.
    """
    check(config)
    ledger = ledger or Ledger(open_store(output))
    ledger.create_run(config.identity(), versions())
    passed = PassedOver()
    photos = list_photos(source, output=output, access=access, passed=passed)
    added = ledger.plan_new(photos, config.shard_size, retry=retry)
    status = ledger.status()
    return {
        "plans_added": added,
        "passed_over": dict(passed),
        "planned": status.planned,
        "committed": status.committed,
        "open_shards": status.open_shards,
    }


def process(
    output: str,
    config: RunConfig,
    plan: int,
    shard: int,
    reference: str | None = None,
    timeout: float = 3600,
    access: Access = SOURCE_ONLY,
    run: RunOrigin = RunOrigin(),
) -> ShardSummary:
    """Process and commit one shard.

    Raises ShardTimeout between two network calls once ``timeout`` seconds have passed, ``Cancelled`` when the run is
    interrupted; nothing of the shard is committed then.
    """
    try:
        should_stop = cancellation.or_after(timeout)
        return process_shard(
            output, config, plan, shard, reference=reference, access=access, run=run, should_stop=should_stop
        )
    except Cancelled:
        if cancellation.requested():
            raise
        raise ShardTimeout(
            f"shard {plan}-{shard} was stopped after {timeout:.0f} s: allow more by shard_timeout, or plan smaller "
            "shards by shard_size"
        ) from None


def report(output: str, shards: Sequence[tuple[int, int]], status: RunStatus) -> dict[str, Any]:
    """Write the report on what a run has committed: pairs of plan and shard; ``status`` is that of the whole output."""
    from tasks.report.data import Night  # here: a run without a report needs neither DuckDB nor matplotlib
    from tasks.report.page import write_report

    summary = write_report([output], night=Night(tuple(ShardId(*pair) for pair in sorted(shards)), status))
    return {"markdown": summary.markdown}
