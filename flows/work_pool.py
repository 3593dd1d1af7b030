"""Past one machine: a run's shards as flow runs on the workers of a Prefect work pool, a share each.

A share is one process with one device and one model. The parent follows the ledger's commits, so a share whose worker
died is noticed by its silence, whether or not Prefect noticed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from flows.execution import Ended, Execution
from tasks.config import RunConfig, RunOrigin
from tasks.store.ledger import Ledger, ShardId
from tasks.store.objects import open_store

POLL = 3.0
"""Seconds between two looks at the ledger and at the flow runs."""


@dataclass
class Share:
    """One worker's shards that are not committed yet, the flow run that has them, and when it last showed life."""

    shards: list[ShardId]
    run: UUID
    alive: float = field(default_factory=time.monotonic)

    def silent(self, patience: float) -> bool:
        """Whether it has shown no life for more than ``patience`` seconds."""
        return time.monotonic() - self.alive > patience


def fan_out(
    todo: list[ShardId], output: str, config: RunConfig, execution: Execution, run: RunOrigin, attempt: int
) -> Generator[Ended]:
    """Endings as commits appear, and one for each share that ended with shards left.

    Raises ValueError if the deployment does not exist.
    """
    ledger, parent = Ledger(open_store(output)), _parent()
    groups = [group for i in range(execution.workers) if (group := todo[i :: execution.workers])]
    shares = [_start(group, output, config, execution, run, f"{parent}:{attempt}") for group in groups]
    try:
        while shares:
            time.sleep(POLL)
            for share in list(shares):
                yield from _news(share, ledger, ledger.next_committed(share.shards))
                if share.shards and share.silent(execution.shard_timeout):  # or works far ahead of shards that fail
                    yield from _news(share, ledger, ledger.committed_among(share.shards))
                ended = None if not share.shards else _look(share, execution.shard_timeout)
                if ended is not None:
                    yield from _news(share, ledger, ledger.committed_among(share.shards))  # since we looked
                if not share.shards or ended is not None:
                    shares.remove(share)
                if share.shards and ended is not None:
                    yield ended
    finally:
        for share in shares:
            _cancel(share)


def _parent() -> str:
    """Id of the flow run we are in."""
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else "none"


def _start(
    group: list[ShardId], output: str, config: RunConfig, execution: Execution, run: RunOrigin, key: str
) -> Share:
    """Have a worker take a group. The key makes a repeated call find the flow run instead of making a second one."""
    digest = hashlib.sha256(repr(group).encode()).hexdigest()[:16]
    parameters = {
        "name": f"{len(group)} shards of {output}",
        "output": output,
        "config": config.model_dump(mode="json"),
        "shards": [list(shard) for shard in group],
        "execution": execution.model_dump(mode="json"),
        "run": run.model_dump(mode="json"),
    }
    try:
        started: Any = run_deployment(
            execution.deployment, parameters=parameters, timeout=0, idempotency_key=f"{key}:{digest}", as_subflow=True
        )
    except ObjectNotFound:
        raise ValueError(f"there is no deployment {execution.deployment}: make it by 'fixpoint deploy'") from None
    return Share(group, started.id)


def _news(share: Share, ledger: Ledger, committed: set[ShardId]) -> Iterator[Ended]:
    """What the share has committed since the last look; it leaves the share."""
    for shard in [shard for shard in share.shards if shard in committed]:
        share.shards.remove(shard)
        share.alive = time.monotonic()
        footer = ledger.shard_footer(*shard)
        yield Ended(done={**shard._asdict(), "photos": footer["rows"], "seconds": _seconds(footer), **footer})


def _seconds(footer: dict[str, Any]) -> float:
    started, finished = (datetime.fromisoformat(footer[name]) for name in ("started_at", "finished_at"))
    return round((finished - started).total_seconds(), 3)


def _look(share: Share, patience: float) -> Ended | None:
    """How a share ended with shards left: by an error of its own, or lost; None while it waits or works."""
    with get_client(sync_client=True) as client:
        state: State[Any] | None = client.read_flow_run(share.run).state
    if state is None or state.is_scheduled() or state.is_pending():
        share.alive = time.monotonic()
        return None
    if state.is_final():
        return Ended(error=f"flow run {share.run}: {state.name}: {state.message}", lost=not state.is_failed())
    if not share.silent(patience):
        return None
    _cancel(share)
    return Ended(error=f"flow run {share.run} committed nothing for {patience:.0f} s", lost=True)


def _cancel(share: Share) -> None:
    """Ask Prefect to end a flow run, wherever it is."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(share.run, Cancelling())
