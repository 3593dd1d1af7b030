"""Protocols that look plausible and are wrong. The checks must find each of them out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from tasks.store.backends import LocalBackend
from tasks.store.errors import AlreadyExists
from tasks.store.ledger import Ledger, ShardId
from tasks.store.objects import PutOutcome, Store
from tasks.store.pictures import Pictures, picture_key
from tasks.store.retry import with_retries
from tasks.store.schema import shard_schema
from tests.chaos import tiny_job
from tests.chaos.tiny_job import Job


def commit_first(ledger: Ledger, shard: ShardId, job: Job) -> None:
    """Commit, then write the pictures it names."""
    pictures = {}
    made = []
    for row in ledger.read_plan_shard(*shard).to_pylist():
        path = picture_key(row["key"], ".jpg")
        pictures[row["key"]] = data = tiny_job.picture(row["key"], "")
        place = {"plan": shard.plan, "shard": shard.shard, "row": row["row"], "key": row["key"], "status": "ok"}
        made.append({**place, "output_path": path, "output_sha256": hashlib.sha256(data).hexdigest()})
    tiny_job.commit(ledger, shard, pa.Table.from_pylist(made, schema=shard_schema()), job)
    for key, data in pictures.items():
        ledger.pictures.put(shard.plan, key, data, ".jpg")


def write_in_place(self: LocalBackend, key: str, data: bytes) -> None:
    """Exclusive, but visible before it is whole."""
    path: Path = self.root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        for half in (data[: len(data) // 2], data[len(data) // 2 :]):
            file.write(half)
            file.flush()
            os.fsync(file.fileno())


def overwrite(self: Store, key: str, data: bytes) -> PutOutcome:
    """Whole, but not exclusive: the last writer wins."""
    self.put(key, data)
    return PutOutcome(True, data)


def trust_the_reply(self: Store, key: str, data: bytes) -> PutOutcome:
    """No read-back: "exists" is taken to mean that somebody else was first."""
    try:
        with_retries(self._policy, "Creating", lambda: self._backend.create(key, data))
    except AlreadyExists:
        return PutOutcome(False, self.get(key))
    return PutOutcome(True, data)


def delete_at_once(job: Job) -> None:
    """Clean-up that gives no names up before it deletes."""
    Pictures.give_up = lambda self, names: None
    tiny_job.clean_up(job)


def apply(name: str) -> Callable[[Ledger, ShardId, Job], None]:
    """Switch a mutant on in this process; how it works on a shard."""
    if name == "write_in_place":
        LocalBackend.create = write_in_place
    if name == "overwrite":
        Store.put_new = overwrite
        Store.probe_exclusive = lambda self: None
    return commit_first if name == "commit_first" else tiny_job.work
