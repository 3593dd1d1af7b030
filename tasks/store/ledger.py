"""The record of truth: plans say which photo belongs to which shard, one Parquet object commits a shard.

::

    run.json                      configuration, created once
    plans/000001.parquet          photo → shard, created once
    images/…                      pictures, created once each, written before the commit that names them
    shards/000001-00012.parquet   one row a photo: THE commit, created once

All four are only ever created, never changed, and every create is exclusive. So any number of runs may work on one
output, be killed at any moment and be started again: each planned photo ends in exactly one committed row.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import posixpath
import re
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tasks.store import parquet
from tasks.store.claims import Claims
from tasks.store.errors import Corrupt, InvalidLocation, NotFound
from tasks.store.objects import Store
from tasks.store.record import RunRecord, canonical, parse_run, refuse_foreign, render_run
from tasks.store.schema import PLAN, latent_shape, shard_schema
from tasks.store.uris import safe_key

PLAN_SIZE = 100_000
"""Photos in one plan at most: what planning holds in memory at a time."""
FOOTER_TAIL = 64 * 1024
"""Bytes read to get at a Parquet footer; ours have 10 to 20 kB."""
READERS = 16

_PLAN_KEY = re.compile(r"plans/(\d{6,})\.parquet")
_SHARD_KEY = re.compile(r"shards/(\d{6,})-(\d{5,})\.parquet")


class ShardId(NamedTuple):
    """A shard: number of its plan, from 1, and its own within the plan, from 0."""

    plan: int
    shard: int

    @property
    def key(self) -> str:
        """Key of its commit."""
        return f"shards/{self.plan:06d}-{self.shard:05d}.parquet"


@dataclass(frozen=True)
class CommitOutcome:
    """Who committed the shard: us (``won``) or an earlier or racing attempt, and the attempt that stands."""

    won: bool
    attempt_id: str


@dataclass(frozen=True)
class Picture:
    """A stored picture: key relative to the output root, and SHA-256 (hex) of its bytes."""

    path: str
    sha256: str


@dataclass(frozen=True)
class RunStatus:
    """Counts of a run. Photos: planned, committed, of these ok and failed. Shards: planned and open."""

    plans: int
    planned: int
    committed: int
    ok: int
    failed: int
    shards: int
    open_shards: int

    @property
    def complete(self) -> bool:
        """Whether every planned photo has its row."""
        return self.open_shards == 0


class Ledger:
    """Plans and commits of one output store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.read_plan = functools.lru_cache(maxsize=2)(self._read_plan)
        self._plan_sizes: dict[int, dict[str, int]] = {}

    # run.json

    def create_run(self, config: dict[str, Any], versions: dict[str, str] | None = None) -> RunRecord:
        """Make the output ours, or join the run that has the same configuration. Probes that creates are exclusive.

        Raises:
            ForeignConfiguration: another configuration was here first; names the fields that differ.
            NotExclusive: the store lets a create overwrite.
            UnknownSchema: it was written by a later version.
            Corrupt: what is stored differs from what was written.
        """
        config = json.loads(canonical(config))
        if not self.store.exists("run.json"):
            self.store.probe_exclusive()
        outcome = self.store.put_new("run.json", render_run(config, versions or {}))
        record = parse_run(outcome.standing, str(self.store.shown("run.json")), created=outcome.won)
        refuse_foreign(str(self.store.shown("")), record.configuration, config)
        return record

    def run(self) -> RunRecord:
        """What run.json says.

        Raises:
            NotFound: no run has begun here.
            UnknownSchema: it was written by a later version.
            Corrupt: what is stored differs from what was written.
        """
        return parse_run(self.store.get("run.json"), str(self.store.shown("run.json")))

    # plans

    def plans(self) -> list[int]:
        """Numbers of the plans, ascending."""
        matches = (_PLAN_KEY.fullmatch(entry.key) for entry in self.store.list("plans/"))
        return sorted(int(match.group(1)) for match in matches if match)

    def add_plan(self, rows: pa.Table, number: int) -> bool:
        """Create plan ``number`` from rows of schema ``PLAN``; False if another run took that number.

        ``number`` must be one above the plans that ``rows`` were compared with: were it looked up here, a plan
        added meanwhile would go unnoticed, and its photos be planned twice.
        """
        counts = {"rows": len(rows), "shards": pc.max(rows["shard"]).as_py() + 1}
        data = parquet.encode(parquet.conform(rows, PLAN), {"attempt_id": uuid.uuid4().hex, **counts})
        return self.store.put_new(_plan_key(number), data).won

    def plan_new(self, entries: Iterable[dict[str, Any]], shard_size: int, plan_size: int = PLAN_SIZE) -> list[int]:
        """Plan those photos that no plan has claimed yet; the numbers of the plans added.

        ``entries`` have the columns of ``PLAN`` without shard and row; missing ones are null. A photo is claimed if
        all of these columns agree with a planned row, so a photo that changed in place (size or etag), or comes with
        another prompt, is new work; equal lines count, so a photo listed twice is planned twice. Memory: ``plan_size``
        entries, and about 150 bytes for each photo planned before.

        Raises:
            ValueError: if ``shard_size`` is not positive.
        """
        if shard_size < 1:
            raise ValueError(f"shard_size is {shard_size}: it must be at least 1")
        plan_size = max(plan_size - plan_size % shard_size, shard_size)
        known = self.plans()
        claims = Claims()
        for plan in known:
            claims.add(self.read_plan(plan))
        unclaimed = (entry for entry in entries if not claims.cover(entry))
        added = []
        while chunk := list(itertools.islice(unclaimed, plan_size)):
            number = max(known, default=0) + 1
            while chunk and not self.add_plan(_plan_table(chunk, shard_size), number):
                claims.add(self.read_plan(number))
                known.append(number)
                chunk = [entry for entry in chunk if not claims.cover(entry)]
                number += 1
            if chunk:
                known.append(number)
                added.append(number)
        return added

    def _read_plan(self, plan: int) -> pa.Table:
        """All rows of a plan, checked; the last two stay in memory."""
        return self._load(_plan_key(plan), PLAN)

    def read_plan_shard(self, plan: int, shard: int) -> pa.Table:
        """The planned rows of one shard, by row.

        Raises:
            NotFound: no such plan or shard.
            Corrupt: what is stored differs from what was written.
            UnknownSchema: it was written by a later version.
        """
        table = self.read_plan(plan)
        rows = table.filter(pc.equal(table["shard"], shard))
        if not len(rows):
            raise NotFound(f"Plan {plan} has no shard {shard}: run `fixpoint status` to see what there is")
        return rows.sort_by("row")

    def _plan_counts(self, plan: int) -> dict[str, int]:
        """Rows and shards of a plan, from its footer."""
        if plan not in self._plan_sizes:
            footer = self._footer(_plan_key(plan))
            self._plan_sizes[plan] = {"rows": footer["rows"], "shards": footer["shards"]}
        return self._plan_sizes[plan]

    # shards

    def committed(self) -> Iterator[ShardId]:
        """Shards that are committed."""
        for entry in self.store.list("shards/"):
            if match := _SHARD_KEY.fullmatch(entry.key):
                yield ShardId(int(match.group(1)), int(match.group(2)))

    def open_shards(self) -> list[ShardId]:
        """Shards of the plans that have no commit yet."""
        return self._without(set(self.committed()))

    def _without(self, done: set[ShardId]) -> list[ShardId]:
        """Planned shards that are not among ``done``."""
        planned = (ShardId(plan, n) for plan in self.plans() for n in range(self._plan_counts(plan)["shards"]))
        return [shard for shard in planned if shard not in done]

    def put_picture(self, key: str, data: bytes, suffix: str) -> Picture:
        """Store the picture of the photo ``key`` under images/, before the commit that names it.

        Pictures are created once and never replaced, so a commit can vouch for them. If other bytes stand under the
        name (a racing attempt on other hardware, an earlier version of the photo), the name gets the digest's start.
        Where a disk has a folder of that name, the picture goes to images/ itself.
        ``suffix`` is the file name extension with its dot.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        stem = picture_key(key, suffix).removesuffix(suffix)
        marked = f"{stem}.{sha256[:16]}{suffix}"
        for path in (stem + suffix, marked, f"images/{posixpath.basename(marked)}"):
            with contextlib.suppress(InvalidLocation):  # on disk, where a folder has the name of a file
                if self.store.put_new(path, data).won:
                    return Picture(path, sha256)
        raise Corrupt(f"{self.store.shown(marked)} is damaged: remove it, then run the same command again")

    def commit_shard(self, plan: int, shard: int, table: pa.Table, footer: dict[str, Any]) -> CommitOutcome:
        """Commit a shard: all of its rows, or nothing. Call it after its pictures are stored.

        ``footer`` is kept as JSON in the Parquet footer, with the attempt id and the counts of rows, ok and failed.

        Raises:
            ValueError: if the rows are not exactly those of the plan.
            StoreFull: no space is left.
            AccessDenied: the store refuses.
            StoreUnavailable: the store does not answer; the same command resumes.
        """
        table = parquet.conform(table, shard_schema(latent_shape(table.schema))).sort_by("row")
        _check_rows(table, self.read_plan_shard(plan, shard), plan, shard)
        ok = pc.sum(pc.equal(table["status"], "ok")).as_py() or 0
        counts = {"rows": len(table), "ok": ok, "failed": len(table) - ok}
        data = parquet.encode(table, {**footer, "attempt_id": uuid.uuid4().hex, **counts})
        outcome = self.store.put_new(ShardId(plan, shard).key, data)
        standing = parquet.read_footer(outcome.standing, ShardId(plan, shard).key)
        return CommitOutcome(outcome.won, standing["attempt_id"])

    def check_shard(self, plan: int, shard: int) -> pa.Table:
        """Read a commit in full and compare its rows with the plan's; the rows.

        Raises:
            ValueError: if the rows are not exactly those of the plan.
            NotFound: no such plan or shard.
            Corrupt: what is stored differs from what was written.
            UnknownSchema: it was written by a later version.
        """
        table = self.read_shard(plan, shard)
        _check_rows(table, self.read_plan_shard(plan, shard), plan, shard)
        return table

    def read_shard(self, plan: int, shard: int, columns: list[str] | None = None) -> pa.Table:
        """Rows of a committed shard, checked, in the schema of this version.

        Raises NotFound, Corrupt or UnknownSchema.
        """
        return self._load(ShardId(plan, shard).key, None, columns)

    def shard_footer(self, plan: int, shard: int) -> dict[str, Any]:
        """The footer of a committed shard: attempt id, counts, and what the run put there."""
        return self._footer(ShardId(plan, shard).key)

    def status(self) -> RunStatus:
        """Counts, from footers alone."""
        plans = [self._plan_counts(plan) for plan in self.plans()]
        done = set(self.committed())
        with ThreadPoolExecutor(READERS) as pool:
            footers = list(pool.map(lambda shard: self._footer(shard.key), done))
        totals = {name: sum(footer[name] for footer in footers) for name in ("rows", "ok", "failed")}
        return RunStatus(
            plans=len(plans),
            planned=sum(counts["rows"] for counts in plans),
            committed=totals["rows"],
            ok=totals["ok"],
            failed=totals["failed"],
            shards=sum(counts["shards"] for counts in plans),
            open_shards=len(self._without(done)),
        )

    # reading

    def _load(self, key: str, schema: pa.Schema | None, columns: list[str] | None = None) -> pa.Table:
        """Read an object; a damaged reply is read once more, for the damage may have happened on the way."""
        name = str(self.store.shown(key))
        data = self.store.get(key)
        try:
            parquet.check(data, name)
        except Corrupt:
            data = self.store.get(key)
        return parquet.decode(data, name, schema or parquet.stored_schema(data, name), columns)

    def _footer(self, key: str) -> dict[str, Any]:
        name = str(self.store.shown(key))
        try:
            return parquet.read_footer(self.store.get_tail(key, FOOTER_TAIL), name)
        except Corrupt:
            return parquet.read_footer(self.store.get(key), name)


def _plan_key(number: int) -> str:
    return f"plans/{number:06d}.parquet"


def picture_key(key: str, suffix: str) -> str:
    """Key of a photo's picture: images/ and the photo's own path, with ``suffix`` added where it differs."""
    safe = safe_key(key)
    same = posixpath.splitext(safe)[1].lower() == suffix.lower()
    return "images/" + (posixpath.splitext(safe)[0] if same else safe) + suffix


def _plan_table(entries: list[dict[str, Any]], shard_size: int) -> pa.Table:
    rows = [{**entry, "shard": i // shard_size, "row": i % shard_size} for i, entry in enumerate(entries)]
    return pa.Table.from_pylist(rows, schema=PLAN)


def _check_rows(table: pa.Table, planned: pa.Table, plan: int, shard: int) -> None:
    """The rows must be the planned ones, each once."""
    expected = [(plan, shard, row, key) for row, key in zip(*_columns(planned, "row", "key"), strict=True)]
    given = list(zip(*_columns(table, "plan", "shard", "row", "key"), strict=True))
    if given != expected:
        wrong = sorted({str(pair) for pair in set(given) ^ set(expected)})[:5] or ["rows given twice"]
        raise ValueError(f"Shard {plan}-{shard} must hold each planned row once; differs in {', '.join(wrong)}")


def _columns(table: pa.Table, *names: str) -> list[list[Any]]:
    return [table[name].to_pylist() for name in names]
