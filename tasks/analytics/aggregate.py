"""From committed shards to analytics tables: streaming, bounded memory, and only what is new.

A manifest a run (``<destination>/_manifest/<run>.json``) names the shards already read and the part files they became.
It is written last; whatever it does not name is swept away, and where it is missing or stale the run is rebuilt.
Nothing can be lost by a crash, because the tables are derived. Two aggregations into one destination at a time are
not meant to be run; the next one repairs the result.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tasks.analytics.committed import Output, Shard, list_shards, open_output, read_shard
from tasks.analytics.flatten import SHARD_COLUMNS, flatten_images, flatten_steps
from tasks.analytics.part_files import PartWriter, load_manifest, save_manifest, sweep, write_table
from tasks.analytics.summarise import small_tables
from tasks.store.errors import Corrupt, UnknownSchema

GROUP_SHARDS = 64
"""Most shards in one row group."""
GROUP_BYTES = 32 << 20
"""Most bytes (Arrow) of shard rows in one row group; bounds the memory."""
READ_AHEAD = 8
"""Shards in memory ahead of their turn."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class AggregateSummary:
    """What one call did: rows added, shards read, shards that were already there, seconds taken.

    ``unreadable``: a sentence for each object that lies where shards do and cannot be read; it is left out.
    """

    destination: str
    runs: tuple[str, ...]
    shards_new: int
    shards_known: int
    images_new: int
    steps_new: int
    seconds: float
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Group:
    """Shards that become one row group."""

    shards: tuple[Shard, ...]
    photos: pa.Table
    entries: tuple[dict[str, Any], ...]

    @property
    def name(self) -> str:
        return hashlib.sha256("".join(shard.name + shard.etag for shard in self.shards).encode()).hexdigest()[:16]


def aggregate(
    outputs: Sequence[str],
    destination: str,
    progress: Progress | None = None,
    *,
    only: Sequence[str] | None = None,
) -> AggregateSummary:
    """Bring the tables under ``destination`` up to date with the committed shards of ``outputs``.

    Args:
        outputs: output roots of runs, folders or fsspec URLs.
        destination: folder or URL of the tables; runs already there and not named are left alone.
        progress: called with (shards read, shards to read) of each run as the work goes on.
        only: names of the shards that the tables are made of; None = all that are there.

    Raises:
        ValueError: no output given, or an output without committed shards that can be read.
    """
    started = time.monotonic()
    damaged: dict[str, str] = {}
    runs = _open(outputs, only, damaged)
    tables = open_output(destination)
    unreadable = list(damaged.values())
    counts = [_aggregate_run(run, shards, tables, progress, unreadable) for run, shards in runs]
    new, known, images, steps = (sum(column) for column in zip(*counts, strict=True))
    names = tuple(run.run for run, _ in runs)
    seconds = time.monotonic() - started
    return AggregateSummary(tables.url, names, new, known, images, steps, seconds, tuple(unreadable))


def _open(
    outputs: Sequence[str], only: Sequence[str] | None, damaged: dict[str, str]
) -> list[tuple[Output, list[Shard]]]:
    """The runs and their shards, each output once; compacted files that cannot be read are named as ``damaged``."""
    if not outputs:
        raise ValueError("No output given: name at least one output folder or URL of a run.")
    named = None if only is None else [Shard(name) for name in only]
    runs = {run.url: (run, list_shards(run, damaged) if named is None else named) for run in map(open_output, outputs)}
    for run, shards in runs.values():
        if not shards:
            raise ValueError(
                f"{run.url} holds no committed shards (shards/*.parquet). Check the URL, or start the run first."
            )
    return list(runs.values())


def _aggregate_run(
    run: Output, shards: list[Shard], tables: Output, progress: Progress | None, unreadable: list[str]
) -> tuple[int, int, int, int]:
    """Shards new and known, images and steps added."""
    manifest = load_manifest(run, shards, tables)
    fresh = [shard for shard in shards if shard.name not in manifest.shards]
    sweep(run, tables, manifest)
    images = steps = read = 0
    writer = PartWriter(run, tables, manifest)
    for group in _groups(run, fresh, unreadable):
        flat = flatten_steps(group.photos)
        writer.write(group.name, flat, flatten_images(group.photos))
        manifest.shards |= {shard.name: entry for shard, entry in zip(group.shards, group.entries, strict=True)}
        images, steps, read = images + group.photos.num_rows, steps + flat.num_rows, read + len(group.shards)
        if progress:
            progress(read, len(fresh))
    writer.close()
    if not manifest.shards:
        raise ValueError(f"{run.url} holds no committed shard that can be read. {unreadable[-1]}")
    if read:
        for name, rows in small_tables(run, tables, manifest).items():
            write_table(tables, name, run, rows)
        save_manifest(run, tables, manifest)
    return read, len(shards) - len(fresh), images, steps


def _groups(run: Output, shards: list[Shard], unreadable: list[str]) -> Iterator[_Group]:
    """Shards joined up to the size of one row group."""
    ready: list[tuple[Shard, pa.Table, dict[str, Any]]] = []
    size = 0
    for shard, table, footer in _read(run, shards, unreadable):
        ready.append((shard, table, _entry(shard, table, footer)))
        size += table.nbytes
        if len(ready) >= GROUP_SHARDS or size >= GROUP_BYTES:
            yield _join(ready)
            ready, size = [], 0
    if ready:
        yield _join(ready)


def _read(run: Output, shards: list[Shard], unreadable: list[str]) -> Iterator[tuple[Shard, pa.Table, dict[str, Any]]]:
    """Every readable shard's table and footer, in order; the next ones are read while the caller works."""
    pending: deque[tuple[Shard, Future[tuple[pa.Table, dict[str, Any]]]]] = deque()
    with ThreadPoolExecutor(4, thread_name_prefix="read-shard") as pool:
        for shard in [*shards, *[None] * READ_AHEAD]:
            if shard is not None:
                pending.append((shard, pool.submit(read_shard, run, shard, SHARD_COLUMNS)))
            if pending and (shard is None or len(pending) == READ_AHEAD):
                first, future = pending.popleft()
                try:
                    found = future.result()
                except (Corrupt, UnknownSchema) as error:
                    unreadable.append(f"{run.url}/shards/{error}")
                    continue
                yield first, *found


def _join(ready: list[tuple[Shard, pa.Table, dict[str, Any]]]) -> _Group:
    shards, photos, entries = zip(*ready, strict=True)
    return _Group(shards, pa.concat_tables(photos).combine_chunks(), entries)


def _entry(shard: Shard, table: pa.Table, footer: dict[str, Any]) -> dict[str, Any]:
    """What the manifest keeps of a shard; ``runs`` is made from these entries."""
    kept = ("started_at", "finished_at", "device", "method", "num_inference_steps", "model_digest", "alphas")
    known = {key: footer[key] for key in kept if footer.get(key) is not None}
    return {"etag": shard.etag, "rows": table.num_rows, **known}
