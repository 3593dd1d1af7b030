"""Many small commits become few large files; their own objects can be removed after that (``tasks.store.compacted``)."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.store import parquet
from tasks.store.compacted import Kept, read_footer, render
from tasks.store.errors import NotFound
from tasks.store.ledger import READERS, Ledger, ShardId
from tasks.store.names import compacted_key
from tasks.store.objects import Entry
from tasks.store.schema import latent_shape, shard_schema

LEAST_COMMITS = 64
"""Commits that make a file at least, so that a compaction every night does not make a small file every night."""
MOST_COMMITS = 1024
MOST_BYTES = 64 * 2**20
"""Bytes of the objects that go into a file at most: what compaction and a reader of whole files hold in memory."""
SMALL = 8 * 2**20
"""Larger commits stay as they are."""
GROUP_ROWS = 4096
"""Rows of a row group at least, but for the last."""


@dataclass(frozen=True)
class CompactSummary:
    """What one compaction did: files made, commits and rows in them, commits that are left for the next one."""

    files: int
    commits: int
    rows: int
    left: int


def compact(ledger: Ledger, *, least: int = LEAST_COMMITS, most: int = MOST_COMMITS) -> CompactSummary:
    """Write the rows of commits that no compacted file holds yet into new ones, of ``least`` to ``most`` commits each.

    Runs, readers and other compactions may go on meanwhile; killed at any moment, it leaves whole files or none.

    Raises:
        NotFound: no run has begun here.
        Corrupt: a commit or a compacted file is damaged.
        UnknownSchema: a later version wrote here.
        StoreError: of the store.
    """
    ledger.run()
    listed = sorted((shard, entry) for shard, entry in _objects(ledger) if entry.size <= SMALL)
    files = commits = rows = 0
    while True:
        held = ledger.compacted.look()
        waiting = [(shard, entry) for shard, entry in listed if shard not in held]
        chosen = _chosen(waiting, most)
        if not chosen or (len(chosen) == len(waiting) < least):
            return CompactSummary(files, commits, rows, len(waiting))
        number, kept = ledger.compacted.last + 1, _read(ledger, chosen)
        if kept and ledger.store.put_new(compacted_key(number), render(_row_groups(kept), uuid.uuid4().hex)).won:
            files, commits, rows = files + 1, commits + len(kept), rows + sum(len(one.rows) for one in kept)


def _objects(ledger: Ledger) -> Iterator[tuple[ShardId, Entry]]:
    """The commits that have an object of their own, and that object."""
    for entry in ledger.store.list("shards/"):
        if shard := ShardId.of(entry.key):
            yield shard, entry


def _chosen(waiting: Sequence[tuple[ShardId, Entry]], most: int) -> list[tuple[ShardId, Entry]]:
    """The first commits, as many as one file takes."""
    chosen, size = list[tuple[ShardId, Entry]](), 0
    for shard, entry in waiting[:most]:
        size += entry.size
        if chosen and size > MOST_BYTES:
            break
        chosen.append((shard, entry))
    return chosen


def _read(ledger: Ledger, chosen: Sequence[tuple[ShardId, Entry]]) -> list[Kept]:
    """Commits with their footers, their latents in one form. Those removed meanwhile, by then in a file, are left out."""

    def read(pair: tuple[ShardId, Entry]) -> Kept | None:
        shard, entry = pair
        try:
            return Kept(shard, ledger.read_own(shard), read_footer(ledger.store, shard.key), entry.etag)
        except NotFound:
            if shard in ledger.compacted.look():
                return None
            raise

    with ThreadPoolExecutor(READERS) as pool:
        kept = [one for one in pool.map(read, chosen) if one is not None]
    if len({tuple(latent_shape(one.rows.schema) or ()) for one in kept}) > 1:
        return [Kept(one.shard, with_raw_latents(one.rows), one.footer, one.etag) for one in kept]
    return kept


def with_raw_latents(rows: pa.Table) -> pa.Table:
    """The rows with their latents as raw bytes, as in a shard whose latents have several shapes."""
    at = rows.schema.get_field_index("latent")
    if latent_shape(rows.schema) is None:
        return rows
    raw = [data for chunk in rows["latent"].chunks for data in _raw(chunk.storage)]
    field = shard_schema().field("latent")
    return rows.set_column(at, field, pa.array(raw, field.type))


def _raw(tensors: pa.FixedSizeListArray) -> Iterator[bytes | None]:
    width = tensors.type.list_size
    values = tensors.values.slice(tensors.offset * width, len(tensors) * width)
    numbers = np.ascontiguousarray(values.to_numpy(zero_copy_only=False), np.float16).reshape(-1, width)
    for there, row in zip(tensors.is_valid().to_pylist(), numbers, strict=True):
        yield row.tobytes() if there else None


def _row_groups(kept: Sequence[Kept]) -> list[list[Kept]]:
    groups: list[list[Kept]] = [[]]
    size = 0
    for one in kept:
        if size >= GROUP_ROWS:
            groups, size = [*groups, []], 0
        groups[-1].append(one)
        size += len(one.rows)
    return groups


def originals(ledger: Ledger) -> list[ShardId]:
    """The commits whose own objects are needed no more, since compacted files hold their rows."""
    listed = [shard for shard, _ in _objects(ledger)]
    held = ledger.compacted.look({})
    return [shard for shard in listed if shard in held]


def check_original(ledger: Ledger, shard: ShardId) -> None:
    """Compare a commit's own object with the compacted file that holds its rows.

    Raises:
        ValueError: if it is a later attempt's, or its rows are others.
        Corrupt: what is stored differs from what was written.
    """
    if not _is_same_attempt(ledger, shard):
        raise ValueError(
            "This commit came after its shard was compacted: `fixpoint gc --compacted --delete` removes it"
        )
    _require_same_rows(ledger, shard)


def remove_originals(ledger: Ledger, shards: Sequence[ShardId]) -> None:
    """Remove commits' own objects, each after it was compared with the compacted file; also those that came too late.

    Raises:
        ValueError: if rows differ; what was compared before that is removed.
        Corrupt: what is stored differs from what was written.
    """
    for shard in shards:
        with contextlib.suppress(NotFound):  # another clean-up was quicker
            if _is_same_attempt(ledger, shard):
                _require_same_rows(ledger, shard)
            ledger.store.delete(shard.key)


def _is_same_attempt(ledger: Ledger, shard: ShardId) -> bool:
    own: dict[str, Any] = read_footer(ledger.store, shard.key)
    return bool(own.get("attempt_id") == ledger.compacted.places[shard].footer.get("attempt_id"))


def _require_same_rows(ledger: Ledger, shard: ShardId) -> None:
    held, own = ledger.read_shard(*shard), ledger.read_own(shard)
    if held.schema != own.schema:
        held, own = with_raw_latents(held), with_raw_latents(own)
    # as bytes, for tables with NaN are not equal to themselves
    if parquet.encode(held.combine_chunks(), {}) != parquet.encode(own.combine_chunks(), {}):
        raise ValueError(f"{shard.key} and its compacted file hold other rows: restore either from a copy")
