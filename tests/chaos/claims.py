"""What attempts believed, compared with what stands."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

from tasks.store.errors import StoreError
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tests.chaos.tiny_job import QUICK, Job


def contradictions(job: Job, *, all_claimed: bool = False) -> list[str]:
    """Each shard has at most one winner and its attempt stands; ``all_claimed``: each commit has a winner.

    The last holds only where nobody was killed between a commit and its note in the log.
    """
    log = Path(job.log)
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    standing = _standing(Ledger(open_store(job.output, QUICK)))
    double = [key for key, count in Counter(key for key, _ in lines).items() if count > 1]
    found = [f"not once: two winners of {key}" for key in double]
    found += [f"not immutable: {key} was replaced" for key, attempt in lines if standing.get(key) != attempt]
    unclaimed = set(standing) - {key for key, _ in lines} if all_claimed else set()
    return found + [f"not exclusive: nobody knows to have committed {key}" for key in sorted(unclaimed)]


def _standing(ledger: Ledger) -> dict[str, str]:
    standing = {}
    for shard in ledger.committed():
        with contextlib.suppress(StoreError):  # the checker reports what is broken
            standing[shard.key] = ledger.shard_footer(*shard)["attempt_id"]
    return standing
