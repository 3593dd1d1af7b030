"""A thousand small nights made into few files: objects, bytes, and what reading every row costs before and after.

    python -m benchmarks.compact [--nights 1000] [--rows 20] [--to s3://bucket/prefix]

A night is one plan with one shard. Requests are counted at the store's backend, as in ``benchmarks.ledger``. Measured:
reading every row as ``fixpoint aggregate`` does, and one query of DuckDB over all rows, before; ``fixpoint compact``;
``fixpoint gc --compacted --delete``; the same two after.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import duckdb
from fsspec import filesystem

from benchmarks.ledger import Counted, copy, measured, write
from tasks.config import RunConfig
from tasks.store import objects
from tasks.store.compact import compact, originals, remove_originals
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store


def stored(where: str) -> str:
    """How many objects of rows there are, and their bytes."""
    found = [entry.size for folder in ("shards/", "compacted/") for entry in open_store(where).list(folder)]
    return f"{len(found):,} objects, {sum(found) / 1e6:.1f} MB"


def read(where: str, rows: int) -> None:
    """Every row, in order."""
    ledger = Ledger(open_store(where))
    assert sum(len(ledger.read_shard(*shard)) for shard in ledger.committed()) == rows


def query(where: str, rows: int) -> None:
    """Count the photos by DuckDB, in the files where they are."""
    files = [f"{where}/{entry.key}" for folder in ("shards/", "compacted/") for entry in open_store(where).list(folder)]
    with duckdb.connect() as connection:
        if where.startswith("s3://"):
            connection.register_filesystem(filesystem("s3"))
        began = time.perf_counter()
        (found,) = connection.execute("SELECT count(DISTINCT key) FROM read_parquet($1)", [files]).fetchall()
        assert found == (rows,), found
        print(f"one query by DuckDB: {time.perf_counter() - began:.2f} s", flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--to", help="measure there instead of in the folder, for instance in a bucket")
    chosen = parser.parse_args()
    requests, opened = Counter[str](), objects.open_backend
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        output.mkdir()
        write(output, RunConfig(), chosen.nights, chosen.rows, 1)
        where = chosen.to or str(output)
        if chosen.to:
            copy(output, where)
        with patch.object(objects, "open_backend", lambda *given: Counted(opened(*given), requests)):
            ledger = Ledger(open_store(where))
            print(f"{chosen.nights:,} nights of {chosen.rows}: {stored(where)}")
            measured("read every row", requests, lambda: read(where, chosen.nights * chosen.rows))
            query(where, chosen.nights * chosen.rows)
            measured("compact", requests, lambda: compact(ledger))
            measured("gc --compacted --delete", requests, lambda: remove_originals(ledger, originals(ledger)))
            print(f"after: {stored(where)}")
            measured("read every row", requests, lambda: read(where, chosen.nights * chosen.rows))
            query(where, chosen.nights * chosen.rows)


if __name__ == "__main__":
    main()
