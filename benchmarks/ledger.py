"""An output of a million photos in a thousand plans and 16,000 shards: requests and processor seconds of what runs do there.

    python -m benchmarks.ledger [--plans 1000] [--rows 1000] [--shards 16] [--to s3://bucket/prefix]

Plans and commits are written as Fixpoint writes them, but quickly: straight into a folder, and with ``--to`` copied from
there. Requests are counted at the store's backend, so they are those of a bucket too; a listing counts one for each 1000
keys. Measured: a run that finds
nothing new, before there is a checkpoint and with one; ``status``; one shard of one photograph from first look to commit,
without its picture; and the parent of a work pool, which looks at 8 shares of all shards every three seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from PIL import Image

from flows import plain
from flows.execution import Execution
from tasks.config import RunConfig, RunOrigin
from tasks.photos.listing import PassedOver
from tasks.photos.sources import list_photos
from tasks.shard.process import process_shard
from tasks.store import ledger as ledgers
from tasks.store import objects, parquet
from tasks.store.facts import facts_of
from tasks.store.ledger import Ledger, ShardId
from tasks.store.names import plan_key
from tasks.store.objects import open_store
from tasks.store.schema import shard_schema

PAGE = 1000
"""Keys to a request of a listing."""
KINDS = {"stat": "HEAD", "create": "PUT", "write": "PUT", "remove": "DELETE"}
"""Requests by the backend's verb; listings are counted by themselves, all else is a GET."""
SHARES = 8


class Counted:
    """A backend whose requests are counted."""

    def __init__(self, backend: Any, requests: Counter[str]) -> None:
        self.backend, self.requests = backend, requests

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            found = getattr(self.backend, verb)(*args, **kwargs)
            if verb == "list":
                found = list(found)
                self.requests["LIST"] += max(1, -(-len(found) // PAGE))
            else:
                self.requests[KINDS.get(verb, "GET")] += 1
            return found

        return call


def photo(plan: int, row: int) -> dict[str, Any]:
    """A listed photo."""
    key = f"{plan:06d}/{row:05d}.jpg"
    return {"key": key, "uri": f"s3://bucket/{key}", "size": 4_000_000 + row, "etag": f"{plan:x}-{row:x}"}


def write(output: Path, config: RunConfig, plans: int, rows: int, shards: int) -> None:
    """Plans and commits of an output that is done."""
    Ledger(open_store(str(output))).create_run(config.identity())
    for folder in ("plans", "shards"):
        (output / folder).mkdir()
    size, schema = -(-rows // shards), shard_schema(None)
    constant = {"status": "ok", "verdict": "cleared", "nfe": 3, "attempt": 1}
    for plan in range(1, plans + 1):
        table = ledgers._plan_table([photo(plan, row) for row in range(rows)], size)
        counts = {"rows": rows, "shards": -(-rows // size)}
        (output / plan_key(plan)).write_bytes(parquet.encode(table, {"attempt_id": uuid.uuid4().hex, **counts}))
        for shard in range(counts["shards"]):
            planned = table.slice(shard * size, size)
            known = {name: planned[name] for name in ("shard", "row", "key")}
            known |= {"source_size": planned["size"], "source_etag": planned["etag"]}
            known |= {name: pa.repeat(value, len(planned)) for name, value in (constant | {"plan": plan}).items()}
            done = parquet.conform(pa.table(known), schema)
            footer = {"attempt_id": uuid.uuid4().hex, "run_id": "written", **facts_of(done, planned).footer()}
            (output / ShardId(plan, shard).key).write_bytes(parquet.encode(done, footer))


def copy(folder: Path, to: str) -> None:
    """Put every file of an output where it is to be measured."""
    store = open_store(to)
    files = [path for path in folder.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda path: store.put(path.relative_to(folder).as_posix(), path.read_bytes()), files))


def measured(name: str, requests: Counter[str], work: Callable[[], Any]) -> Any:
    """Do it, and print what it took."""
    requests.clear()
    began, used = time.perf_counter(), time.process_time()
    result = work()
    asked = ", ".join(f"{requests[kind]:,} {kind}" for kind in sorted(requests)) or "none"
    seconds = time.process_time() - used
    print(f"{name}: {asked}; {seconds:.2f} processor s, {time.perf_counter() - began:.2f} s", flush=True)
    return result


def one_shard(output: str, config: RunConfig, folder: Path, requests: Counter[str]) -> None:
    """Plan new photographs and process two shards of one each, in one run."""
    folder.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (plan,) = Ledger(open_store(output)).plan_new(list_photos(str(folder)), 1)
    run = RunOrigin(run_id="measured")
    for i, name in enumerate(("first shard of a process, pictures included", "the next shard")):
        measured(name, requests, lambda i=i: process_shard(output, config, plan, i, run=run))


def looks(output: str, requests: Counter[str], plans: int, shards: int) -> None:
    """What the parent of a work pool asks when nothing is done yet of 8 shares of all shards."""
    todo = [ShardId(plan, shard) for plan in range(plans + 10, 2 * plans + 10) for shard in range(shards)]
    shares = [todo[i::SHARES] for i in range(SHARES)]
    ledger = Ledger(open_store(output))
    measured(
        f"one look at {len(todo):,} open shards",
        requests,
        lambda: [ledger.next_committed(share) for share in shares],
    )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--to", help="measure there instead of in the folder, for instance in a bucket")
    chosen = parser.parse_args()
    config, requests = RunConfig(), Counter[str]()
    counted = objects.open_backend

    def listed(*args: Any, **kwargs: Any) -> Iterator[dict[str, Any]]:
        del args, kwargs
        return (photo(plan, row) for plan in range(1, chosen.plans + 1) for row in range(chosen.rows))

    def idle(output: str) -> None:
        with patch.object(plain, "list_photos", listed):
            status = plain.nothing_new("", output, Ledger(open_store(output)), config, Execution(), PassedOver())
        assert status is not None
        assert status.committed == chosen.plans * chosen.rows, status

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        output.mkdir()
        write(output, config, chosen.plans, chosen.rows, chosen.shards)
        files = sum(1 for _ in output.rglob("*.parquet"))
        print(f"{chosen.plans * chosen.rows:,} photos, {chosen.plans:,} plans, {files - chosen.plans:,} shards")
        where = chosen.to or str(output)
        if chosen.to:
            copy(output, where)
        with patch.object(objects, "open_backend", lambda *given: Counted(counted(*given), requests)):
            measured("idle run, no checkpoint", requests, lambda: idle(where))
            measured("checkpoint", requests, lambda: Ledger(open_store(where)).checkpoint(always=True))
            size = next(iter(open_store(where).list("checkpoints/"))).size
            measured(f"idle run, checkpoint of {size / 1e6:.0f} MB", requests, lambda: idle(where))
            measured("status", requests, lambda: Ledger(open_store(where)).status())
            one_shard(where, config, Path(folder, "new"), requests)
            looks(where, requests, chosen.plans, chosen.shards)


if __name__ == "__main__":
    main()
