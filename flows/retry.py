"""Failed photos of an output once more, from its own plans: no listing of the source, its own configuration."""

from __future__ import annotations

from typing import Any

from flows.execution import Execution
from flows.plain import finish_open
from flows.totals import totals
from tasks.config import RunConfig
from tasks.store.error_codes import RetryRule
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store


def retry(output: str, rule: RetryRule, settings: dict[str, Any], execution: Execution) -> dict[str, Any]:
    """Plan the failed photos that ``rule`` admits anew, and finish what is open, in this process; the counts.

    ``settings``: fields of the configuration that may differ from the output's own, as ``device`` does.

    Raises:
        NotFound: no run has begun here.
        ForeignConfiguration: for settings that decide results.
        TooManyFailures, Incomplete: after everything that can be done is done.
    """
    ledger = Ledger(open_store(output))
    config = RunConfig(**{**ledger.run().configuration, **settings})
    ledger.create_run(config.identity())
    if ledger.plan_retries(rule, config.shard_size) or ledger.open_shards():
        return finish_open(output, config, execution, ledger)
    return {**vars(ledger.status()), **totals([])}
