"""Whether an output is whole, and what lies about in it that no commit speaks for."""

from __future__ import annotations

import collections
import functools
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tasks.store.backends import TEMPORARY
from tasks.store.compact import check_original, originals
from tasks.store.errors import NotFound, StoreError
from tasks.store.ledger import READERS, Ledger, ShardId
from tasks.store.names import COMPACTED, GIVEN_UP, IMAGES, is_known, plan_key
from tasks.store.objects import Entry, Store


@dataclass(frozen=True)
class Problem:
    """What is wrong with one object."""

    key: str
    message: str


def verify(ledger: Ledger) -> Iterator[Problem]:
    """Everything that is wrong with an output; nothing if each planned photo has one row and no bit differs.

    Reads every object in full: run.json, plans and shards against their own digests and Parquet page checksums,
    rows against plans, compacted files against the commits' own objects, pictures against the digests their rows record.
    """
    yield from _attempt("run.json", ledger.run)
    plans = ledger.plans()
    if plans != list(range(1, len(plans) + 1)):
        yield Problem("plans/", f"Plans are numbered {plans}: one is missing; restore it from a copy")
    expected: set[ShardId] = set()
    for plan in plans:
        yield from _attempt(plan_key(plan), functools.partial(_add_shards, ledger, plan, expected))
    damaged: dict[str, str] = {}
    done = set(ledger.committed(unreadable=damaged))
    yield from (Problem(key, message) for key, message in damaged.items())
    for shard in sorted(expected - done):
        yield Problem(shard.key, "This shard is not committed: run the same command again to finish it")
    for shard in sorted(done - expected):
        yield Problem(shard.key, "No readable plan has this shard: restore the plan, or remove the shard")
    with ThreadPoolExecutor(READERS) as pool:
        for shard in sorted(done & expected):
            yield from _check_shard(ledger, shard, pool)
    for shard in originals(ledger):
        yield from _attempt(shard.key, functools.partial(check_original, ledger, shard))
    yield from _attempt(GIVEN_UP, ledger.pictures.given_up)
    for entry in ledger.store.list("checkpoints/"):
        yield from _attempt(entry.key, functools.partial(_check_checkpoint, ledger, entry.key))
    for folder in ("plans/", "shards/", COMPACTED):
        for entry in ledger.store.list(folder):
            if not (is_known(entry.key) or _is_leftover(entry.key, set())):
                yield Problem(entry.key, "Fixpoint writes no object of this name: remove it, or keep it elsewhere")


def _check_checkpoint(ledger: Ledger, key: str) -> None:
    """A checkpoint must say what its plans and commits say, made anew."""
    if not ledger.is_true(key):
        raise ValueError("This checkpoint differs from plans and commits: remove it, it is made anew")


def _attempt(key: str, check: Callable[[], object]) -> Iterator[Problem]:
    try:
        check()
    except (StoreError, ValueError) as error:
        yield Problem(key, str(error))


def _add_shards(ledger: Ledger, plan: int, shards: set[ShardId]) -> None:
    """Add the shards of a plan, whose rows must be numbered without a gap."""
    table = ledger.read_plan(plan).sort_by([("shard", "ascending"), ("row", "ascending")])
    pairs = list(zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True))
    sizes = collections.Counter(shard for shard, _ in pairs)
    if pairs != [(shard, row) for shard in range(len(sizes)) for row in range(sizes[shard])]:
        raise ValueError("Its rows are not numbered without a gap: restore the plan from a copy")
    shards.update(ShardId(plan, shard) for shard in sizes)


def _check_shard(ledger: Ledger, shard: ShardId, pool: ThreadPoolExecutor) -> Iterator[Problem]:
    """A damaged commit, or its pictures that are missing or differ from what their rows say."""
    try:
        table = ledger.check_shard(*shard).select(["output_path", "output_sha256"])
    except (StoreError, ValueError) as error:
        yield Problem(shard.key, str(error))
        return
    rows = [row for row in table.to_pylist() if row["output_path"]]
    yield from filter(None, pool.map(lambda row: _picture_problem(ledger.store, row), rows))


def _picture_problem(store: Store, row: dict[str, str]) -> Problem | None:
    path = row["output_path"]
    try:
        data = store.get(path)
    except NotFound:
        return Problem(path, "This picture is missing: restore it from a copy")
    except StoreError as error:
        return Problem(path, str(error))
    if hashlib.sha256(data).hexdigest() != row["output_sha256"]:
        return Problem(path, "This picture is damaged or was replaced: restore it from a copy")
    return None


def gc(ledger: Ledger, *, dry_run: bool = True) -> list[Entry]:
    """What killed or losing attempts left behind: temporary files, probes, pictures that no commit names.

    Deletes them if ``dry_run`` is False; the names of the pictures are given up first, for a run that begins meanwhile
    could take them over (see ``tasks.store.pictures``).

    Raises:
        NotFound: no run has begun here.
        ValueError: while shards are open, for their pictures look like leftovers; or if a run has begun meanwhile.
        Corrupt: if a commit cannot be read, for its pictures are unknown then.
    """
    ledger.run()
    newest = max(ledger.plans(), default=0)
    if still_open := len(ledger.open_shards()):
        raise ValueError(f"{still_open} shards are still open: finish the run first, then clean up")
    named = {path for shard in ledger.committed() for path in _pictures(ledger.read_shard(*shard, ["output_path"]))}
    leftovers = [entry for entry in ledger.store.list() if _is_leftover(entry.key, named)]
    if leftovers and not dry_run:
        ledger.pictures.give_up({entry.key for entry in leftovers if _is_picture(entry.key)})
        if ledger.store.exists(plan_key(newest + 1)):
            raise ValueError("A run has begun meanwhile: finish it first, then clean up; nothing was removed")
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(ledger.store.delete, [entry.name for entry in leftovers]))
    return leftovers


def _pictures(table: pa.Table) -> list[str]:
    paths: list[str] = pc.drop_null(table["output_path"]).to_pylist()
    return paths


def _is_leftover(key: str, named: set[str]) -> bool:
    return _is_temporary(key) or key.startswith("probe/") or (_is_picture(key) and key not in named)


def _is_picture(key: str) -> bool:
    return key.startswith(IMAGES) and not _is_temporary(key)


def _is_temporary(key: str) -> bool:
    return key.rpartition("/")[2].startswith(TEMPORARY)
