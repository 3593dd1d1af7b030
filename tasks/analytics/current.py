"""What is current: the newest good row of each photo, whether its source still has it, and a copy of its picture.

``current/photos.parquet`` is derived and brought up to date from the commits that came after it. Pictures under
``images/`` are never replaced, so a photo that came in a new version has its newer picture under another name;
``current/images/NAME`` is a copy that always is the current one.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa

from tasks.analytics.committed import Output, Shard, open_output, read_shard
from tasks.analytics.schema import CURRENT, CURRENT_COLUMNS
from tasks.analytics.summarise import connect
from tasks.store import parquet
from tasks.store.errors import Corrupt, InvalidLocation, NotFound, UnknownSchema
from tasks.store.ledger import READERS, Ledger, ShardId
from tasks.store.pictures import picture_key

TABLE, PICTURES = "current/photos.parquet", "current/"
_READ = [*CURRENT_COLUMNS, "status", "error_code"]
ROW_GROUP = 50_000
"""Rows whose statistics let a query for one key pass over all others."""
BATCH = 64
"""Shards whose rows are in memory before they are merged."""

NEWEST = """
SELECT * FROM rows WHERE status = 'ok'
QUALIFY row_number() OVER (PARTITION BY key ORDER BY plan DESC, shard DESC, row DESC) = 1
"""


@dataclass(frozen=True)
class CurrentSummary:
    """What one update did. ``photos`` that are current, ``gone`` among them; pictures ``copied`` and ``removed``."""

    table: str
    shards_new: int
    photos: int
    gone: int
    copied: int = 0
    removed: int = 0


@dataclass(frozen=True)
class _Covered:
    """The commits that a table was made from: all of plans 1 to ``plans`` but those that were open."""

    plans: int = 0
    open_shards: frozenset[ShardId] = frozenset()


def update_current(output: str, listed: Iterable[str] | None = None, *, pictures: bool = False) -> CurrentSummary:
    """Bring ``current/`` of an output up to date.

    Args:
        listed: keys that the source has now; photos that are not among them are marked as gone. None = not asked.
        pictures: copy each current picture to ``current/images/`` under the photo's own name, and remove those of photos
            that are gone.

    Raises StoreError, also where a commit cannot be read.
    """
    source = open_output(output)
    ledger = Ledger(source.store)
    table, covered = _stored(ledger)
    plans, still_open = max(ledger.plans(), default=0), frozenset(ledger.open_shards())
    new = sorted(_committed_since(ledger, covered, plans))
    source.compacted.look()
    for at in range(0, len(new), BATCH):
        table = _merged(table, list(_rows(source, new[at : at + BATCH])))
    if listed is not None:
        table = _marked(table, listed)
    copied = removed = 0
    if pictures:
        table, copied, removed = _copied(ledger, table)
    footer = {"plans": plans, "open_shards": [list(shard) for shard in sorted(still_open)]}
    ledger.store.put(TABLE, parquet.encode(table, footer, row_group_size=ROW_GROUP))
    gone = len(table) - table["gone_at"].null_count
    return CurrentSummary(str(ledger.store.shown(TABLE)), len(new), len(table), gone, copied, removed)


def _stored(ledger: Ledger) -> tuple[pa.Table, _Covered]:
    """The table as it stands; an empty one where there is none that can be read, for it is made anew then."""
    with contextlib.suppress(NotFound, Corrupt, UnknownSchema, KeyError, TypeError, ValueError):
        data, name = ledger.store.get(TABLE), str(ledger.store.shown(TABLE))
        footer = parquet.read_footer(data, name)
        covered = _Covered(int(footer["plans"]), frozenset(ShardId(*pair) for pair in footer["open_shards"]))
        return parquet.decode(data, name, CURRENT), covered
    return CURRENT.empty_table(), _Covered()


def _committed_since(ledger: Ledger, covered: _Covered, plans: int) -> Iterator[ShardId]:
    yield from ledger.committed_among(covered.open_shards)
    if not covered.plans:
        yield from ledger.committed()
        return
    for plan in range(covered.plans + 1, plans + 1):
        yield from ledger.committed(plan)


def _rows(source: Output, shards: list[ShardId]) -> Iterator[pa.Table]:
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(lambda shard: read_shard(source, Shard(shard.name), _READ)[0], shards)


def _merged(table: pa.Table, shards: list[pa.Table]) -> pa.Table:
    """The table with further rows: the newest good one of each key, and what failed after it."""
    before = table.append_column("status", pa.array(["ok"] * len(table), pa.string()))
    news = pa.concat_tables(shards)
    rows = pa.concat_tables([before, news], promote_options="default")
    with connect() as connection:
        connection.register("rows", rows)
        connection.register("news", news)
        return _ask(
            connection,
            f"""WITH newest AS ({NEWEST}),
                     failed AS (SELECT key, max_by(error_code, (plan, shard, row)) AS code, max((plan, shard, row)) AS place
                                FROM news WHERE status <> 'ok' GROUP BY key)
                SELECT newest.* EXCLUDE (status, error_code, failed_since),
                       CASE WHEN place > (plan, shard, row) THEN code ELSE failed_since END AS failed_since
                FROM newest LEFT JOIN failed USING (key) ORDER BY key""",  # noqa: S608  (constants of this module)
        )


def _marked(table: pa.Table, listed: Iterable[str]) -> pa.Table:
    """The table with the time at which photos were found to be gone, and none for those that are there."""
    with connect() as connection:
        connection.register("current", table)
        connection.register("listed", pa.table({"key": pa.array(sorted(set(listed)), pa.string())}))
        return _ask(
            connection,
            """SELECT current.* EXCLUDE (gone_at),
                      CASE WHEN listed.key IS NULL THEN coalesce(gone_at, $1) END AS gone_at
               FROM current LEFT JOIN listed USING (key) ORDER BY current.key""",
            datetime.now(UTC),
        )


def _ask(connection: duckdb.DuckDBPyConnection, query: str, *values: object) -> pa.Table:
    found: pa.Table = connection.sql(query, params=list(values)).to_arrow_table()
    return parquet.conform(found, CURRENT)


def _copied(ledger: Ledger, table: pa.Table) -> tuple[pa.Table, int, int]:
    """The table after the pictures were copied and removed, and how many were."""
    rows = table.select(["key", "output_path", "output_sha256", "gone_at", "copied_sha256"]).to_pylist()
    with ThreadPoolExecutor(READERS) as pool:
        after = list(pool.map(lambda row: _copy(ledger, row), rows))
    before = table["copied_sha256"].to_pylist()
    copied = sum(new is not None and new != old for new, old in zip(after, before, strict=True))
    removed = sum(new is None and old is not None for new, old in zip(after, before, strict=True))
    at = table.schema.get_field_index("copied_sha256")
    return table.set_column(at, CURRENT.field(at), pa.array(after, pa.string())), copied, removed


def _copy(ledger: Ledger, row: dict[str, Any]) -> str | None:
    """Bring one picture under ``current/images/`` up to date; the digest of what lies there then."""
    there: str | None = row["copied_sha256"]
    wanted: str | None = row["output_sha256"] if row["gone_at"] is None and row["output_path"] else None
    if wanted == there or not row["output_path"]:
        return there
    name = PICTURES + picture_key(row["key"], posixpath.splitext(row["output_path"])[1].lower())
    if wanted is None:
        ledger.store.delete(name)
        return None
    with contextlib.suppress(InvalidLocation):  # on disk, where a folder has the name of a file
        ledger.store.put(name, ledger.store.get(row["output_path"]))
        return wanted
    return None
