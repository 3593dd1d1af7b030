"""A run in this process without Prefect: the same steps, called plainly, where a server would bring nothing."""

from __future__ import annotations

import logging
import os
import time
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from flows.current import keep_current
from flows.execution import Ended, Execution, judge
from flows.figures import failed_of, figures_of, own_shards, warn
from flows.metrics import write_metrics
from flows.run_id import begin_run
from flows.totals import totals
from tasks.config import RunConfig, RunOrigin
from tasks.photos.listing import PassedOver
from tasks.photos.sources import list_photos
from tasks.shard import cancellation
from tasks.shard.progress import PROGRESS
from tasks.store.errors import NotFound
from tasks.store.ledger import Ledger, RunStatus, ShardId
from tasks.store.objects import open_store

log = logging.getLogger(__name__)
MAX_SHARDS = 16
"""Shards up to which a run is too short for anybody to watch."""


def run_here(operation: str, source: str, output: str, config: RunConfig, execution: Execution) -> dict[str, Any]:
    """Do what is new, by the shortest way: nothing, plainly, or as a flow of Prefect. Counts of the run, as a flow gives them.

    Raises TooManyFailures or Incomplete after everything that can be done is done.
    """
    here = execution.with_site_of(source)
    passed, ledger = PassedOver(), Ledger(open_store(output))
    if (status := nothing_new(source, output, ledger, config, here, passed)) is not None:
        keep_current(source, output, here)
        write_metrics(figures_of(operation, output, None, [], status, time.monotonic()))
        return {**vars(status), **totals([]), "passed_over": dict(passed)}
    if not wants_prefect(execution) and (done := _run_plainly(source, output, ledger, config, here)) is not None:
        return done
    from prefect import tags
    from prefect.exceptions import CancelledRun

    from flows.embedded import start_once
    from flows.operations import FLOWS

    start_once()
    with tags("fixpoint"):
        try:
            counts: Any = FLOWS[operation](source, output, config, execution)
        except CancelledRun:
            raise KeyboardInterrupt from None
    return dict(counts)


def nothing_new(
    source: str, output: str, ledger: Ledger, config: RunConfig, execution: Execution, passed: PassedOver
) -> RunStatus | None:
    """The counts of a run that has done every photo of ``source``, told without a model; None if there may be work.

    Photos that no plan has claimed are planned: the configuration was checked when the run began.
    """
    try:
        ledger.run()
    except NotFound:
        return None
    ledger.create_run(config.identity())
    if ledger.open_shards():
        return None
    photos = list_photos(source, output=output, access=execution.access(), passed=passed)
    return None if ledger.plan_new(photos, config.shard_size, retry=execution.retry_rule()) else ledger.status()


def wants_prefect(execution: Execution) -> bool:
    """Whether a run is Prefect's: it was asked for, it needs it, or a server is named in the environment or the profile."""
    if execution.prefect is not None:
        return execution.prefect
    return execution.needs_prefect or "PREFECT_API_URL" in os.environ or "PREFECT_API_URL" in _profile()


def _profile() -> Mapping[str, Any]:
    """The active profile of Prefect's settings, without Prefect."""
    file = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser() / "profiles.toml"
    if not file.is_file():
        return {}
    content = tomllib.loads(file.read_text())
    name = os.environ.get("PREFECT_PROFILE", content.get("active"))
    found: Mapping[str, Any] = content.get("profiles", {}).get(name, {})
    return found


def _run_plainly(
    source: str, output: str, ledger: Ledger, config: RunConfig, execution: Execution
) -> dict[str, Any] | None:
    """Plan, process, report; None, with the plan made, if there is more to do than ``MAX_SHARDS`` and nobody ruled Prefect out."""
    from tasks import steps  # here: with the model's libraries

    planned = steps.plan(source, output, config, execution.access(), execution.retry_rule(), ledger)
    todo = ledger.open_shards()
    if execution.prefect is None and len(todo) > MAX_SHARDS:
        return None
    if planned["passed_over"]:
        log.info("passed over: %s", PassedOver(planned["passed_over"]))
    log.info("%s: %s photos planned, %s shards to do", output, planned["planned"], len(todo))
    return {**finish_open(output, config, execution, ledger, source), "passed_over": planned["passed_over"]}


def finish_open(
    output: str, config: RunConfig, execution: Execution, ledger: Ledger, source: str | None = None
) -> dict[str, Any]:
    """Process the open shards and report; the counts of the run and of the output.

    ``ledger``: the output's, which may know some of it already. ``source``: for what is gone from it.

    Raises TooManyFailures or Incomplete after everything that can be done is done.
    """
    from tasks import steps  # here: with the model's libraries

    begun, run = time.monotonic(), begin_run()
    before = ledger.status()
    PROGRESS.add("expected", before.planned - before.committed)
    ended = list(_process_all(ledger.open_shards(), output, config, execution, run))
    done = [one.done for one in ended if one.done is not None]
    history = ledger.history()
    ledger.checkpoint(history)
    status = history.status()
    if (own := own_shards(done)) and execution.report:
        steps.report(output, own, status)
    keep_current(source, output, execution)
    figures = figures_of(config.operation, output, run.run_id, done, status, begun)
    warn(failed_of(ledger, done), figures, log)
    write_metrics(figures)
    counts, errors = totals(done), [str(one.error) for one in ended if one.error is not None]
    judge(counts, status, errors, execution.max_failed_fraction)
    return {**vars(status), **counts}


def _process_all(
    todo: list[ShardId], output: str, config: RunConfig, execution: Execution, run: RunOrigin
) -> Iterator[Ended]:
    """One shard on the device, and one whose photos are read or written meanwhile. An interruption stops both in good order."""
    cancellation.forget()
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(_process, shard, output, config, execution, run) for shard in todo]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            cancellation.request()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _process(shard: ShardId, output: str, config: RunConfig, execution: Execution, run: RunOrigin) -> Ended:
    """A shard, tried again where that can help, as Prefect's task is."""
    from tasks import steps

    retrying = Retrying(
        stop=stop_after_attempt(4),
        wait=wait_exponential(multiplier=5) + wait_random(0, 2.5),
        retry=retry_if_exception(steps.may_succeed_again),
        reraise=True,
    )
    rest = (execution.reference, execution.shard_timeout, execution.access(), run)
    try:
        done = retrying(steps.process, output, config, *shard, *rest)
    except Exception as error:
        log.warning("shard %06d-%05d failed: %s", *shard, error)
        return Ended(error=str(error))
    log.info("shard %06d-%05d: %d photos, %d failed", *shard, done["photos"], done["failed"])
    return Ended(done=dict(done))
