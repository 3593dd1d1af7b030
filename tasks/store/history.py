"""What became of every photo ever planned: one row a photo, of its last attempt, and totals over all commits.

A history is extended plan by plan, and stored as a checkpoint so that the next run need not read every plan and commit
there ever was. Checkpoints are derived: ``verify`` makes the history anew and compares; a lost or damaged one costs
time, nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter

from tasks.store.error_codes import RetryRule
from tasks.store.facts import ShardFacts, Totals
from tasks.store.identity import identities
from tasks.store.names import ShardId

OPEN, OK = 0, 1
"""States of a photo: planned and not committed; done. Larger ones are error codes, by ``History.states``."""
STATES = ("open", "ok")

PHOTO = np.dtype(
    [("head", "<u8"), ("tail", "<u8"), ("task", "<u8")]
    + [(name, "<i4") for name in ("plan", "shard", "row", "attempt", "state")]
)
"""``head``, ``tail``: the two halves of the identity (``tasks.store.identity``); 44 bytes a photo."""
Photos = npt.NDArray[np.void]

CHECKPOINT = pa.schema(
    [
        pa.field("identity", pa.binary(16), metadata={"description": "key, version and what is asked, BLAKE2b"}),
        pa.field("task", pa.binary(8), metadata={"description": "key and what is asked, BLAKE2b"}),
        pa.field("plan", pa.int32()),
        pa.field("shard", pa.int32()),
        pa.field("row", pa.int32()),
        pa.field("attempt", pa.int32()),
        pa.field("state", pa.string(), metadata={"description": "open, ok, or the error code"}),
    ]
)
"""A checkpoint: one row a photo, sorted by identity."""


@dataclass(frozen=True)
class RunStatus:
    """Counts of an output.

    ``planned`` and ``committed`` count rows; a photo that is tried again, or comes in another version, has several.
    ``photos``, ``ok`` and ``failed`` count photos by the newest row of each; those that are neither are open.
    """

    plans: int
    planned: int
    committed: int
    photos: int
    ok: int
    failed: int
    shards: int
    open_shards: int

    @property
    def complete(self) -> bool:
        """Whether every planned photo has its row."""
        return self.open_shards == 0


@dataclass(frozen=True)
class PlanNews:
    """A plan's rows and the facts of those of its shards that are committed."""

    number: int
    rows: pa.Table
    facts: Mapping[int, ShardFacts]


@dataclass(frozen=True)
class History:
    """The photos of plans 1 to ``plans``, sorted by identity, and what their commits add up to."""

    photos: Photos = field(default_factory=lambda: np.empty(0, PHOTO))
    states: tuple[str, ...] = STATES
    plans: int = 0
    planned: int = 0
    shards: int = 0
    open_shards: tuple[ShardId, ...] = ()
    totals: Totals = Totals()

    def extended(self, news: Sequence[PlanNews]) -> History:
        """With further plans, and with what was committed meanwhile of the shards that were open.

        News of a plan already known hold the rows of its open shards, all of them; other plans stay as they are.
        """
        if not news:
            return self
        states, known = list(self.states), [one.number for one in news if one.number <= self.plans]
        reopened = {shard for shard in self.open_shards if shard.plan in known}
        told_anew = (self.photos["state"] == OPEN) & np.isin(self.photos["plan"], known)
        kept = self.photos[~told_anew] if known else self.photos
        photos = _sorted(_latest(np.concatenate([kept, *(_photos(one, states) for one in news)])))
        shards = {ShardId(one.number, n) for one in news for n in one.rows["shard"].unique().to_pylist()}
        done = {ShardId(one.number, n) for one in news for n in one.facts}
        fresh = [one for one in news if one.number > self.plans]
        facts = [facts for one in news for facts in one.facts.values()]
        return History(
            photos=photos,
            states=tuple(states),
            plans=max(self.plans, *(one.number for one in news)),
            planned=self.planned + sum(len(one.rows) for one in fresh),
            shards=self.shards + len(shards) - len(reopened),
            open_shards=tuple(sorted({*self.open_shards, *shards} - done)),
            totals=sum((one.totals for one in facts), self.totals),
        )

    def status(self) -> RunStatus:
        """Counts of rows, photos and shards."""
        newest = _newest(self.photos)["state"]
        ok, still_open = int(np.count_nonzero(newest == OK)), int(np.count_nonzero(newest == OPEN))
        return RunStatus(
            plans=self.plans,
            planned=self.planned,
            committed=self.totals.rows,
            photos=len(newest),
            ok=ok,
            failed=len(newest) - ok - still_open,
            shards=self.shards,
            open_shards=len(self.open_shards),
        )

    def failed(self, rule: RetryRule) -> list[tuple[ShardId, int, int]]:
        """Shard, row and attempt of the photos that have failed last and that the rule admits."""
        newest = _newest(self.photos)
        rows = newest[newest["state"] > OK]
        return [
            (ShardId(int(r["plan"]), int(r["shard"])), int(r["row"]), int(r["attempt"]))
            for r in rows
            if rule.admits(self.states[r["state"]], int(r["attempt"]))
        ]

    def failures(self) -> dict[str, int]:
        """Photos that have failed last, by error code."""
        newest = _newest(self.photos)["state"]
        values, counts = np.unique(newest[newest > OK], return_counts=True)
        return {self.states[value]: int(n) for value, n in zip(values, counts, strict=True)}

    # as a checkpoint

    def table(self) -> pa.Table:
        """The photos as rows of ``CHECKPOINT``."""
        identity = np.column_stack([self.photos["head"], self.photos["tail"]])
        state = pa.DictionaryArray.from_arrays(self.photos["state"], list(self.states)).cast(pa.string())
        columns = [_binary(identity, 16), _binary(self.photos["task"], 8)]
        columns += [pa.array(self.photos[name]) for name in ("plan", "shard", "row", "attempt")]
        return pa.table([*columns, state], schema=CHECKPOINT)

    def footer(self) -> dict[str, Any]:
        """What a checkpoint says beside its rows."""
        return {
            "plans": self.plans,
            "planned": self.planned,
            "shards": self.shards,
            "open_shards": [list(shard) for shard in self.open_shards],
            "totals": asdict(self.totals),
        }

    @classmethod
    def restored(cls, table: pa.Table, footer: dict[str, Any]) -> History:
        """The history that a checkpoint holds."""
        photos = np.empty(len(table), PHOTO)
        identity = _bytes(table["identity"], 16).view("<u8").reshape(-1, 2)
        photos["head"], photos["tail"] = identity[:, 0], identity[:, 1]
        photos["task"] = _bytes(table["task"], 8).view("<u8")
        for name in ("plan", "shard", "row", "attempt"):
            photos[name] = table[name].to_numpy()
        state = pc.dictionary_encode(table["state"].combine_chunks())
        names = state.dictionary.to_pylist()
        states = (*STATES, *(name for name in names if name not in STATES))
        photos["state"] = np.array([states.index(name) for name in names], "<i4")[state.indices.to_numpy()]
        return cls(
            photos=photos,
            states=states,
            plans=footer["plans"],
            planned=footer["planned"],
            shards=footer["shards"],
            open_shards=tuple(ShardId(*shard) for shard in footer["open_shards"]),
            totals=TypeAdapter(Totals).validate_python(footer["totals"]),
        )


def _binary(values: npt.NDArray[Any], width: int) -> pa.Array:
    data = np.ascontiguousarray(values)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(data)])


def _bytes(column: pa.ChunkedArray, width: int) -> npt.NDArray[np.uint8]:
    array = column.combine_chunks()
    start = array.offset * width
    return np.frombuffer(array.buffers()[1] or b"", np.uint8)[start : start + len(array) * width]


def _photos(news: PlanNews, states: list[str]) -> Photos:
    """The photos of a plan in the state that its commits give them; new error codes are added to ``states``."""
    rows = news.rows
    photos = np.empty(len(rows), PHOTO)
    digests = list(identities(rows))
    photos["head"], photos["tail"] = _halves([identity for identity, _ in digests])
    photos["task"] = np.frombuffer(b"".join(task for _, task in digests), "<u8")
    photos["plan"] = news.number
    for name in ("shard", "row"):
        photos[name] = rows[name].to_numpy()
    photos["attempt"] = rows["attempt"].fill_null(1).to_numpy()
    place = {(shard, row): i for i, (shard, row) in enumerate(zip(photos["shard"], photos["row"], strict=True))}
    photos["state"] = np.where(np.isin(photos["shard"], list(news.facts)), OK, OPEN)
    for shard, facts in news.facts.items():
        for row, code in facts.failures:
            if code not in states:
                states.append(code)
            if (shard, row) in place:  # or the footer speaks of rows that no plan has: ``verify`` names it
                photos["state"][place[shard, row]] = states.index(code)
    return np.concatenate([photos, _replaced(news, photos, place)])


def _replaced(news: PlanNews, photos: Photos, place: dict[tuple[int, int], int]) -> Photos:
    """Photos that were read in another version than the planned one: that version is done, too."""
    replaced = [(shard, one) for shard, facts in news.facts.items() for one in facts.replaced]
    found = [(place[shard, one.row], one) for shard, one in replaced if (shard, one.row) in place]
    if not found:
        return photos[:0]
    again: Photos = photos[[index for index, _ in found]].copy()
    planned = news.rows.take([index for index, _ in found])
    for name, values in (("size", [one.size for _, one in found]), ("etag", [one.etag for _, one in found])):
        at = planned.schema.get_field_index(name)
        planned = planned.set_column(at, planned.schema.field(at), pa.array(values, planned.schema.field(at).type))
    again["head"], again["tail"] = _halves([identity for identity, _ in identities(planned)])
    return again


def _halves(digests: list[bytes]) -> npt.NDArray[np.uint64]:
    """(2, n): first and second half of each 16-byte digest."""
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2).T


def _sorted(photos: Photos) -> Photos:
    return photos[np.lexsort((photos["attempt"], photos["tail"], photos["head"]))]


def _latest(photos: Photos) -> Photos:
    """Without attempts that another attempt followed: each of attempt n + 1 takes the place of a failed one of n."""
    again = photos[photos["attempt"] > 1]
    if not len(again):
        return photos
    followed = Counter((int(p["head"]), int(p["tail"]), int(p["attempt"]) - 1) for p in again)
    keep = np.ones(len(photos), bool)
    for index in np.flatnonzero(np.isin(photos["head"], again["head"]) & (photos["state"] > OK)):
        photo = photos[index]
        mark = (int(photo["head"]), int(photo["tail"]), int(photo["attempt"]))
        if followed[mark]:
            followed[mark] -= 1
            keep[index] = False
    return photos[keep]


def _newest(photos: Photos) -> Photos:
    """One row a photo: of those that share a task, the ones of the last plan; each place once."""
    order = np.argsort(photos["task"], kind="stable")
    tasks = photos["task"][order]
    same = np.flatnonzero(tasks[1:] == tasks[:-1])
    if not len(same):
        return photos
    several = np.zeros(len(photos), bool)
    several[order[same]] = several[order[same + 1]] = True
    group = photos[several]
    group = group[np.lexsort((group["row"], group["shard"], group["plan"], group["task"]))]
    last = np.append(group["task"][1:] != group["task"][:-1], True)
    newest_plan = group["plan"][np.flatnonzero(last)][np.cumsum(np.append(0, last[:-1]))]
    repeated = np.append(False, np.all([group[n][1:] == group[n][:-1] for n in ("task", "plan", "shard", "row")], 0))
    return np.concatenate([photos[~several], group[(group["plan"] == newest_plan) & ~repeated]])


def cumulative(news: Iterable[PlanNews]) -> History:
    """The history of all plans, from nothing."""
    return History().extended(list(news))
