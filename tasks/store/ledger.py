"""The record of truth: plans say which photo belongs to which shard, one Parquet object commits a shard.

::

    run.json                      configuration, created once
    plans/000001.parquet          photo → shard, created once
    images/…                      pictures, created once each, written before the commit that names them
    shards/000001-00012.parquet   one row a photo: THE commit, created once
    compacted/000001.parquet      the rows of many commits, created once (see ``tasks.store.compacted``)
    given-up/…                    names of pictures that clean-up took, never used again, created once each
    checkpoints/…                 what became of every photo so far, derived: may be removed at any time

All but the last are only ever created, never changed, and every create is exclusive; a commit's own object may be
removed once a compacted file holds its rows. So any number of runs may work on one output, be killed at any moment and
be started again: each planned row ends in exactly one committed row. A photo that failed can be planned again; its rows
then have attempts 1, 2, ….
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from tasks.store import parquet
from tasks.store.claims import Claims
from tasks.store.compacted import CompactedFiles, Place, read_footer
from tasks.store.error_codes import NIGHTLY, RetryRule
from tasks.store.errors import Corrupt, NotFound, StoreError, UnknownSchema
from tasks.store.facts import COUNTED, ShardFacts, facts_from, facts_of
from tasks.store.history import CHECKPOINT, History, PlanNews, RunStatus
from tasks.store.names import ShardId, checkpoint_key, checkpoint_keys, plan_key, plan_numbers
from tasks.store.objects import Store
from tasks.store.pictures import Pictures
from tasks.store.record import RunRecord, canonical, parse_run, refuse_foreign, render_run
from tasks.store.schema import PLAN, latent_shape, shard_schema

PLAN_SIZE = 100_000
"""Photos in one plan at most: what planning holds in memory at a time."""
READERS = 16
FEW = 4
"""Shards that are looked up one by one rather than listed."""
MAX_LISTED = 16
"""Plans whose shards are listed plan by plan; those of more are found in a listing of all, a thousand to a request."""

MAX_NEWS = 64
"""Plans and commits after the newest checkpoint that a run leaves at most: what the next one has to read."""
MAX_OPEN = 256
"""Open shards that a checkpoint names at most; with more of them a large job is under way, and none is written."""
NEWS_AT_A_TIME = 64
"""Plans that are held in memory at a time while a history is made."""

Read = TypeVar("Read")

__all__ = ["CommitOutcome", "Ledger", "RunStatus", "ShardId"]


@dataclass(frozen=True)
class CommitOutcome:
    """Who committed the shard: us (``won``) or an earlier or racing attempt; the attempt that stands, and its facts."""

    won: bool
    attempt_id: str
    facts: ShardFacts


class Ledger:
    """Plans and commits of one output store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.pictures = Pictures(store)
        self.compacted = CompactedFiles(store)
        self.read_plan = functools.lru_cache(maxsize=2)(self._read_plan)
        self._plan_sizes: dict[int, dict[str, int]] = {}
        self._kept: tuple[str, History] | None = None
        self._known: History | None = None

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
        with contextlib.suppress(NotFound):
            record = self.run()
            refuse_foreign(str(self.store.shown("")), record.configuration, config)
            return record
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
        return plan_numbers(entry.key for entry in self.store.list("plans/"))

    def add_plan(self, rows: pa.Table, number: int) -> bool:
        """Create plan ``number`` from rows of schema ``PLAN``; False if another run took that number.

        ``number`` must be one above the plans that ``rows`` were compared with: were it looked up here, a plan
        added meanwhile would go unnoticed, and its photos be planned twice.
        """
        counts = {"rows": len(rows), "shards": pc.max(rows["shard"]).as_py() + 1}
        data = parquet.encode(parquet.conform(rows, PLAN), {"attempt_id": uuid.uuid4().hex, **counts})
        return self.store.put_new(plan_key(number), data).won

    def plan_new(
        self,
        entries: Iterable[dict[str, Any]],
        shard_size: int,
        plan_size: int = PLAN_SIZE,
        *,
        retry: RetryRule = NIGHTLY,
        history: History | None = None,
    ) -> list[int]:
        """Plan those photos that no plan has claimed yet, and failed ones that ``retry`` admits; the plans added.

        ``entries`` have the columns of ``PLAN`` without shard, row and attempt; missing ones are null. A photo is
        claimed if all of these columns agree with a planned row, or if it was read in this version; so a photo that
        changed in place (size or etag), or comes with another prompt, is new work; equal lines count, so a photo listed
        twice is planned twice. ``history``: of this ledger, if the caller has it. Memory: ``plan_size`` entries, and
        about 100 bytes for each photo planned before.

        Raises:
            ValueError: if ``shard_size`` is not positive.
        """
        if shard_size < 1:
            raise ValueError(f"shard_size is {shard_size}: it must be at least 1")
        history = history or self.history()
        claims, last = Claims(history, retry), history.plans
        chosen, added = claims.unclaimed(entries), list[int]()
        size = max(plan_size - plan_size % shard_size, shard_size)
        while chunk := list(itertools.islice(chosen, size)):
            last += 1
            while chunk and not self.add_plan(_plan_table(chunk, shard_size), last):
                claims.add(self.read_plan(last))
                chunk, last = claims.left(chunk), last + 1
            if chunk:
                added.append(last)
            else:
                last -= 1
        return added

    def plan_retries(self, rule: RetryRule, shard_size: int) -> list[int]:
        """Plan the photos anew that failed last and that ``rule`` admits, as they were planned; the plans added."""
        history = self.history()
        again: dict[ShardId, dict[int, int]] = defaultdict(dict)
        for shard, row, attempt in history.failed(rule):
            again[shard][row] = attempt
        entries = (
            {**row, "attempt": again[shard][row["row"]] + 1}
            for shard in sorted(again)
            for row in self.read_plan_shard(*shard).to_pylist()
            if row["row"] in again[shard]
        )
        added, last = list[int](), history.plans
        while chunk := list(itertools.islice(entries, PLAN_SIZE)):
            last += 1
            if not self.add_plan(_plan_table(chunk, shard_size), last):
                raise Corrupt(f"Another run planned meanwhile in {self.store.shown('')}: run the same command again")
            added.append(last)
        return added

    def _read_plan(self, plan: int) -> pa.Table:
        """All rows of a plan, checked; ``read_plan`` keeps the last two in memory."""
        rows = self._load(plan_key(plan), PLAN)
        if any(rows[name].null_count for name in ("shard", "row", "key")):
            raise Corrupt(f"{self.store.shown(plan_key(plan))} is no plan of this version: restore it from a copy")
        self._plan_sizes[plan] = {"rows": len(rows), "shards": (pc.max(rows["shard"]).as_py() or 0) + 1}
        return rows

    def read_plan_shard(self, plan: int, shard: int) -> pa.Table:
        """The planned rows of one shard, by row.

        Raises:
            NotFound: no such plan or shard.
            Corrupt: what is stored differs from what was written.
            UnknownSchema: it was written by a later version.
        """
        rows = _of_shard(self.read_plan(plan), shard)
        if not len(rows):
            raise NotFound(f"Plan {plan} has no shard {shard}: run `fixpoint status` to see what there is")
        return rows

    def _plan_counts(self, plan: int) -> dict[str, int]:
        """Rows and shards of a plan, from its footer."""
        if plan not in self._plan_sizes:
            footer = read_footer(self.store, plan_key(plan))
            counts = {name: footer.get(name) for name in ("rows", "shards")}
            if not all(isinstance(count, int) and count >= 0 for count in counts.values()):
                name = self.store.shown(plan_key(plan))
                raise Corrupt(f"{name} has a footer that Fixpoint did not write: restore it from a copy")
            self._plan_sizes[plan] = {"rows": footer["rows"], "shards": footer["shards"]}
        return self._plan_sizes[plan]

    # shards

    def committed(self, plan: int | None = None, unreadable: dict[str, str] | None = None) -> list[ShardId]:
        """Shards that are committed, of one plan or of all, in their order.

        ``unreadable``: compacted files that cannot be read are named here instead of raising Corrupt.
        """
        listed = self._listed(plan)
        held = self.compacted.look(unreadable)  # after the listing: see ``tasks.store.compacted``
        return sorted(listed | {shard for shard in held if plan in (None, shard.plan)})

    def _listed(self, plan: int | None) -> set[ShardId]:
        """Shards that have an object of their own."""
        prefix = "shards/" if plan is None else f"shards/{plan:06d}-"
        return {shard for entry in self.store.list(prefix) if (shard := ShardId.of(entry.key))}

    def _with_compacted(self, found: set[ShardId], among: Iterable[ShardId]) -> set[ShardId]:
        """``found`` and those others ``among`` some shards that compacted files hold, looked up if there are others."""
        missing = set(among) - found
        return found | (missing & self.compacted.look().keys()) if missing else found

    def is_committed(self, shard: ShardId) -> bool:
        """Whether a shard is committed: one request if it is, else two."""
        return self._has_object(shard) or shard in self.compacted.look()

    def committed_among(self, shards: Iterable[ShardId]) -> set[ShardId]:
        """Those of some shards that are committed; a request for each of a few, else a listing of their plans."""
        wanted = set(shards)
        if len(wanted) <= FEW:
            found = {shard for shard in wanted if self._has_object(shard)}
        else:
            found = wanted & self._listed_in(sorted({shard.plan for shard in wanted}), map)
        return self._with_compacted(found, wanted)

    def next_committed(self, shards: Sequence[ShardId]) -> set[ShardId]:
        """Those of some shards that are committed, as far as they are done about in this order.

        A request for each that is found, and for ``FEW`` that are still open; then it gives up.
        """
        found, still_open = set[ShardId](), 0
        for shard in shards:
            if self._has_object(shard):
                found.add(shard)
            elif (still_open := still_open + 1) == FEW:
                break
        return self._with_compacted(found, shards)

    def _listed_in(self, plans: list[int], over: Callable[..., Iterable[set[ShardId]]]) -> set[ShardId]:
        """Shards of some plans that have an object: a listing each, or one of all. ``over``: map, or that of a pool."""
        if len(plans) > MAX_LISTED:
            return self._listed(None)
        return set().union(*over(self._listed, plans))

    def open_shards(self) -> list[ShardId]:
        """Shards of the plans that have no commit yet."""
        base = self._known or self._checkpoint()
        new = [number for number in self.plans() if number > base.plans]
        with ThreadPoolExecutor(READERS) as pool:
            counts = dict(zip(new, pool.map(self._plan_counts, new), strict=True))
            done = self._committed_since(base, new, pool)
        planned = [ShardId(plan, n) for plan in new for n in range(counts[plan]["shards"])]
        return [shard for shard in [*base.open_shards, *planned] if shard not in done]

    def _committed_since(
        self, base: History, new: list[int], pool: ThreadPoolExecutor, unreadable: dict[str, str] | None = None
    ) -> set[ShardId]:
        """The committed shards of plans that came after a checkpoint, and those that it left open."""
        if not base.plans:
            return set(self.committed(unreadable=unreadable))
        if not new and not base.open_shards:
            return set()
        if len(base.open_shards) > MAX_OPEN:
            listed = self._listed_in(sorted({*new, *(shard.plan for shard in base.open_shards)}), pool.map)
        else:
            looked_up = zip(base.open_shards, pool.map(self._has_object, base.open_shards), strict=True)
            listed = {shard for shard, there in looked_up if there} | self._listed_in(new, pool.map)
        held = self.compacted.look(unreadable)
        return listed | {shard for shard in held if shard.plan > base.plans} | (held.keys() & set(base.open_shards))

    def _has_object(self, shard: ShardId) -> bool:
        return self.store.exists(shard.key)

    # history

    def history(
        self,
        *,
        anew: bool = False,
        plans: int | None = None,
        without: frozenset[ShardId] = frozenset(),
        unreadable: dict[str, str] | None = None,
    ) -> History:
        """What became of every planned photo: the newest readable checkpoint, and what was written after it.

        Plans and commits are read once each, ``READERS`` at a time, and never again by this ledger: they do not change.
        ``anew`` reads all of them and no checkpoint;
        ``plans`` ends with this one, and shards ``without`` are taken to be open. ``unreadable``: plans and commits that
        cannot be read are named here, by key, and left out, instead of raising Corrupt or UnknownSchema.
        """
        base = History() if anew else self._known or self._checkpoint()
        numbers = [number for number in self.plans() if number > base.plans and number <= (plans or number)]
        with ThreadPoolExecutor(READERS) as pool:
            done = self._committed_since(base, numbers, pool, unreadable) - without
            history = base.extended(self._reopened(base, done, pool, unreadable))
            for at in range(0, len(numbers), NEWS_AT_A_TIME):
                history = history.extended(self._new(numbers[at : at + NEWS_AT_A_TIME], done, pool, unreadable))
        if not anew and plans is None and not without and unreadable is None:
            self._known = history
        return history

    def _new(
        self, plans: list[int], done: set[ShardId], pool: ThreadPoolExecutor, unreadable: dict[str, str] | None
    ) -> list[PlanNews]:
        """Plans, and the facts of their committed shards."""
        read = pool.map(lambda plan: _or_named(unreadable, plan_key(plan), self._read_plan, plan), plans)
        tables = {plan: table for plan, table in zip(plans, read, strict=True) if table is not None}
        return self._with_facts(tables, sorted(done), pool, unreadable)

    def _with_facts(
        self,
        tables: dict[int, pa.Table],
        done: list[ShardId],
        pool: ThreadPoolExecutor,
        unreadable: dict[str, str] | None,
    ) -> list[PlanNews]:
        """Rows of plans, and the facts of those of their shards that are committed."""
        done = [shard for shard in done if shard.plan in tables]
        told = pool.map(lambda one: _or_named(unreadable, one.key, self._facts, one, tables[one.plan]), done)
        facts: dict[int, dict[int, ShardFacts]] = defaultdict(dict)
        for shard, one in zip(done, told, strict=True):
            if one is not None:
                facts[shard.plan][shard.shard] = one
        return [PlanNews(plan, table, facts[plan]) for plan, table in tables.items()]

    def _reopened(
        self, base: History, done: set[ShardId], pool: ThreadPoolExecutor, unreadable: dict[str, str] | None
    ) -> list[PlanNews]:
        """The rows of the shards that a history left open, of all of them, and the facts of those committed since."""
        shards: dict[int, list[int]] = defaultdict(list)
        for shard in base.open_shards:
            shards[shard.plan].append(shard.shard)

        def rows_of(plan: int) -> pa.Table | None:
            table = _or_named(unreadable, plan_key(plan), self._read_plan, plan)
            return None if table is None else table.filter(pc.is_in(table["shard"], pa.array(shards[plan], pa.int32())))

        tables = {plan: rows for plan, rows in zip(shards, pool.map(rows_of, shards), strict=True) if rows is not None}
        return self._with_facts(tables, sorted(done & set(base.open_shards)), pool, unreadable)

    def facts(self, shard: ShardId) -> ShardFacts:
        """What a commit says of its rows."""
        return self._facts(shard, None)

    def _facts(self, shard: ShardId, plan: pa.Table | None) -> ShardFacts:
        """From the footer; from the rows where an older version did not put it there."""
        if (facts := facts_from(self.shard_footer(*shard), str(self.store.shown(shard.key)))) is not None:
            return facts
        planned = self.read_plan_shard(*shard) if plan is None else _of_shard(plan, shard.shard)
        return facts_of(self.read_shard(*shard, list(COUNTED)), planned)

    def _checkpoint(self) -> History:
        """The newest checkpoint that can be read, or an empty history. Kept, for a checkpoint never changes."""
        for key in checkpoint_keys(entry.key for entry in self.store.list("checkpoints/")):
            if self._kept is None or self._kept[0] != key:
                with contextlib.suppress(Corrupt, NotFound, UnknownSchema):
                    self._kept = key, self._read_checkpoint(key)
            if self._kept is not None and self._kept[0] == key:
                return self._kept[1]
        return History()

    def _read_checkpoint(self, key: str) -> History:
        name, data = str(self.store.shown(key)), self.store.get(key)
        table, footer = parquet.decode(data, name, CHECKPOINT), parquet.read_footer(data, name)
        try:
            if any(column.null_count for column in table.columns):
                raise ValueError("gaps")
            return History.restored(table, footer)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise Corrupt(f"{name} is no checkpoint of this version: remove it, it is made anew") from error

    def is_true(self, key: str) -> bool:
        """Whether a checkpoint says what its plans and those commits say that it counts with, all read anew.

        Raises:
            Corrupt: what is stored differs from what was written.
            UnknownSchema: it was written by a later version.
        """
        stored = self._read_checkpoint(key)
        anew = self.history(anew=True, plans=stored.plans, without=frozenset(stored.open_shards))
        return stored.footer() == anew.footer() and stored.table().equals(anew.table())

    def checkpoint(self, history: History | None = None, *, always: bool = False) -> bool:
        """Store the history as a checkpoint if there is enough news since the last; whether one was written.

        The one before the last is kept beside it, for readers that have just listed it; older ones are removed.
        """
        base = self._checkpoint()
        history = history or self.history()
        news = history.plans - base.plans + history.shards - base.shards + len(base.open_shards)
        if len(history.open_shards) > MAX_OPEN or not history.plans or not (always or news > MAX_NEWS):
            return False
        key = checkpoint_key(history.plans, history.shards - len(history.open_shards))
        data = parquet.encode(history.table(), {"attempt_id": uuid.uuid4().hex, **history.footer()})
        won = self.store.put_new(key, data).won
        for old in checkpoint_keys(entry.key for entry in self.store.list("checkpoints/"))[2:]:
            self.store.delete(old)
        return won

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
        planned = self.read_plan_shard(plan, shard)
        _check_rows(table, planned, plan, shard)
        facts = facts_of(table, planned)
        data = parquet.encode(table, {**footer, "attempt_id": uuid.uuid4().hex, **facts.footer()})
        outcome = self.store.put_new(ShardId(plan, shard).key, data)
        name = str(self.store.shown(ShardId(plan, shard).key))
        standing = parquet.read_footer(outcome.standing, name)
        if outcome.won and (earlier := self._compacted_before(ShardId(plan, shard), standing)) is not None:
            return CommitOutcome(
                False, earlier["attempt_id"], facts_from(earlier, name) or self.facts(ShardId(plan, shard))
            )
        return CommitOutcome(outcome.won, standing["attempt_id"], facts_from(standing, name) or facts)

    def _compacted_before(self, shard: ShardId, ours: dict[str, Any]) -> dict[str, Any] | None:
        """The footer of another attempt's commit whose object was removed because a compacted file holds its rows.

        Then ours, which found the name free for that reason alone, is removed. Where the store does not say, ours stands:
        it is committed, and readers take the compacted file's rows before it.
        """
        try:
            place = self.compacted.look().get(shard)
        except StoreError:
            return None
        if place is None or place.footer.get("attempt_id") == ours["attempt_id"]:
            return None
        self.store.delete(shard.key)
        return place.footer

    def check_shard(self, plan: int, shard: int) -> pa.Table:
        """Read a commit in full and compare its rows with the plan's; the rows.

        Raises:
            ValueError: if the rows are not exactly those of the plan, or the footer does not fit them.
            NotFound: no such plan or shard.
            Corrupt: what is stored differs from what was written.
            UnknownSchema: it was written by a later version.
        """
        table, planned = self.read_shard(plan, shard), self.read_plan_shard(plan, shard)
        _check_rows(table, planned, plan, shard)
        told = facts_from(self.shard_footer(plan, shard), str(self.store.shown(ShardId(plan, shard).key)))
        if told is not None and told.footer() != facts_of(table, planned).footer():
            raise ValueError("Its footer counts otherwise than its rows do: restore the shard from a copy")
        return table

    def read_shard(self, plan: int, shard: int, columns: list[str] | None = None) -> pa.Table:
        """Rows of a committed shard, checked, in the schema of this version.

        Raises NotFound, Corrupt or UnknownSchema.
        """
        one = ShardId(plan, shard)
        return self._of_commit(
            one, lambda place: self.compacted.read(place, columns), lambda: self.read_own(one, columns)
        )

    def read_own(self, shard: ShardId, columns: list[str] | None = None) -> pa.Table:
        """As ``read_shard``, from the commit's own object even if a compacted file holds its rows."""
        return self._load(shard.key, None, columns)

    def shard_footer(self, plan: int, shard: int) -> dict[str, Any]:
        """The footer of a committed shard: attempt id, counts, and what the run put there."""
        one = ShardId(plan, shard)
        return self._of_commit(one, lambda place: place.footer, lambda: read_footer(self.store, one.key))

    def _of_commit(self, shard: ShardId, held: Callable[[Place], Read], own: Callable[[], Read]) -> Read:
        """What a compacted file, as far as they are known, or else the commit's own object says."""
        place = self.compacted.places.get(shard)
        if place is not None:
            return held(place)
        try:
            return own()
        except NotFound:
            place = self.compacted.look().get(shard)  # removed since we looked
            if place is None:
                raise
            return held(place)

    def status(self, unreadable: dict[str, str] | None = None) -> RunStatus:
        """Counts, from checkpoints and footers alone. ``unreadable``: names what cannot be read instead of raising."""
        if unreadable is not None:
            with contextlib.suppress(NotFound):
                _or_named(unreadable, "run.json", self.run)
        return self.history(unreadable=unreadable).status()

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


def _or_named(
    unreadable: dict[str, str] | None, key: str, read: Callable[..., Read], *arguments: object
) -> Read | None:
    """What ``read`` returns; None, named in ``unreadable`` if there is one, for an object that cannot be read."""
    try:
        return read(*arguments)
    except (Corrupt, UnknownSchema) as error:
        if unreadable is None:
            raise
        unreadable[key] = str(error)
        return None


def _of_shard(plan: pa.Table, shard: int) -> pa.Table:
    return plan.filter(pc.equal(plan["shard"], shard)).sort_by("row")


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
