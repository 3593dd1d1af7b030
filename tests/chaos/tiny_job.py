"""A run in miniature over the real store and ledger: no model, so that hundreds of kills fit in a minute.

Some pictures differ from attempt to attempt, as they would on other hardware. Every commit that an attempt believes
to have won is noted in a log, for the checks to compare with what stands.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.store.backends import S3Backend
from tasks.store.compact import compact, originals, remove_originals
from tasks.store.ledger import Ledger, ShardId
from tasks.store.objects import open_store
from tasks.store.retry import RetryPolicy
from tasks.store.schema import shard_schema
from tasks.store.verify import gc

QUICK = RetryPolicy(attempts=15, first_delay=0.002, max_delay=0.05, budget=60, request_timeout=1.5)
CONFIGURATION = {"pipeline": "tiny", "seed": 9}


@dataclass(frozen=True)
class Job:
    """What to do: photos 0 … photos-1 into ``output``, in shards; wins go to the file ``log`` if given."""

    output: str
    photos: int
    shard_size: int
    log: str = ""


def keys(photos: int) -> list[str]:
    return [f"album {i % 7}/фото {i}.jpg" for i in range(photos)]


def entries(photos: int) -> list[dict[str, Any]]:
    return [{"key": key, "uri": f"memory://in/{key}", "size": i, "etag": f"e{i}"} for i, key in enumerate(keys(photos))]


def picture(key: str, attempt: str) -> bytes:
    """Every second picture is the same in all attempts."""
    stable = hashlib.sha256(key.encode()).digest()
    return stable * 20 if stable[0] % 2 else stable * 20 + attempt.encode()


def rows(ledger: Ledger, shard: ShardId) -> pa.Table:
    """Work on a shard: a row for each planned photo; every tenth photo is a bad one."""
    attempt = uuid.uuid4().hex
    made = []
    for planned in ledger.read_plan_shard(*shard).to_pylist():
        base = {"plan": shard.plan, "shard": shard.shard, "row": planned["row"], "key": planned["key"]}
        if planned["size"] % 10 == 9:
            made.append({**base, "status": "failed", "error_code": "not-an-image", "error_message": "not an image"})
            continue
        data = picture(planned["key"], attempt)
        stored = ledger.pictures.put(shard.plan, planned["key"], data, ".jpg")
        made.append({**base, "status": "ok", "output_path": stored.path, "output_sha256": stored.sha256})
    return pa.Table.from_pylist(made, schema=shard_schema())


def commit(ledger: Ledger, shard: ShardId, table: pa.Table, job: Job) -> None:
    outcome = ledger.commit_shard(*shard, table, {"configuration": CONFIGURATION})
    if outcome.won and job.log:
        with Path(job.log).open("a") as log:
            log.write(f"{shard.key} {outcome.attempt_id}\n")


def work(ledger: Ledger, shard: ShardId, job: Job) -> None:
    """The order that makes it safe: pictures, then the commit."""
    commit(ledger, shard, rows(ledger, shard), job)


def run(job: Job, work: Callable[[Ledger, ShardId, Job], None] = work, policy: RetryPolicy = QUICK) -> None:
    """Plan what is new and finish every open shard, as a flow does."""
    ledger = Ledger(open_store(job.output, policy))
    ledger.create_run(CONFIGURATION)
    ledger.plan_new(entries(job.photos), job.shard_size)
    for shard in ledger.open_shards():
        if not ledger.store.exists(shard.key):
            work(ledger, shard, job)


def clean_up(job: Job) -> None:
    """``fixpoint gc --delete``."""
    gc(Ledger(open_store(job.output, QUICK)), dry_run=False)


def compact_all(job: Job) -> None:
    """``fixpoint compact``, then ``fixpoint gc --compacted --delete``."""
    ledger = Ledger(open_store(job.output, QUICK))
    compact(ledger, least=1, most=2)
    remove_originals(ledger, originals(ledger))


class Killer:
    """Kills its own process with SIGKILL, or stops it with another signal, at the n-th operation on storage.

    On disk: just before an operation on a path below ``root``, or before a flush. On S3: before a request is sent,
    or after its reply arrived.
    """

    EVENTS = frozenset("open os.link os.remove os.rename os.mkdir os.scandir os.truncate".split())

    def __init__(self, root: str, at: int, sign: signal.Signals = signal.SIGKILL) -> None:
        self.root, self.left, self.sign = root, at, sign

    def arm(self) -> None:
        sys.addaudithook(self._on_event)
        flush, call = os.fsync, S3Backend._call

        def fsync(descriptor: int) -> None:
            self._step()
            flush(descriptor)

        def request(backend: S3Backend, method: str, **arguments: Any) -> Any:
            self._step()
            reply = call(backend, method, **arguments)
            self._step()
            return reply

        os.fsync, S3Backend._call = fsync, request

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in self.EVENTS and arguments and str(arguments[0]).startswith(self.root):
            self._step()

    def _step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.sign)


if __name__ == "__main__":  # OUTPUT PHOTOS SHARD_SIZE LOG: one worker, until done or killed
    started = time.monotonic()
    run(Job(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
    print(f"done in {time.monotonic() - started:.1f} s")
