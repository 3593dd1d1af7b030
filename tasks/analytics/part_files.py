"""Part files of the analytics tables, and the manifest that says which of them count."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.analytics.committed import Output, Shard, read_json
from tasks.analytics.schema import TABLES_VERSION

PART_ROWS = 4_000_000
"""A part file is closed once it holds this many steps: some 50 MB, held in memory until it is put."""

_ENCODED = {
    "compression": "zstd",
    "use_byte_stream_split": ["intra", "inter", "bound", "rate"],
    "use_dictionary": ["plan", "shard", "row", "image_id", "key", "step", "timestep", "iteration", "nfe"],
    "dictionary_pagesize_limit": 16 << 20,
    "store_schema": False,
}
_PLAIN = {"compression": "zstd", "store_schema": False}


@dataclass
class Manifest:
    """What the tables hold of one run: shards by name (etag, rows, what their footers say) and the part files."""

    output: str
    tables_version: int = TABLES_VERSION
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)


def load_manifest(run: Output, shards: list[Shard], tables: Output) -> Manifest:
    """The manifest of ``run``, or an empty one (a rebuild) where it no longer tells the truth about shards or parts."""
    etags = {shard.name: shard.etag for shard in shards}
    try:
        manifest = Manifest(**read_json(tables, _manifest_key(run)))
        unchanged = all(etags.get(name) == entry["etag"] for name, entry in manifest.shards.items())
        present = all(set(manifest.parts) <= set(_parts(tables, table, run)) for table in ("steps", "images"))
    except (TypeError, KeyError, AttributeError):  # written by somebody else
        return Manifest(run.url)
    current = manifest.tables_version == TABLES_VERSION and manifest.output == run.url
    return manifest if unchanged and present and current else Manifest(run.url)


def save_manifest(run: Output, tables: Output, manifest: Manifest) -> None:
    """Make the parts count; written after them."""
    tables.store.put(_manifest_key(run), json.dumps(asdict(manifest), indent=1).encode())


def sweep(run: Output, tables: Output, manifest: Manifest) -> None:
    """Delete part files that the manifest does not name: what a broken-off call or an older version left."""
    for table in ("steps", "images"):
        for name in set(_parts(tables, table, run)) - set(manifest.parts):
            tables.store.delete(f"{partition(table, run)}/{name}")


def partition(table: str, run: Output) -> str:
    """Key of the folder that holds a run's rows of a table (Hive partitioning)."""
    return f"{table}/run={run.run}"


def write_table(tables: Output, table: str, run: Output, rows: pa.Table) -> None:
    """Replace a run's rows in one of the small tables."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, **_PLAIN)
    tables.store.put(f"{partition(table, run)}/part-0.parquet", sink.getvalue().to_pybytes())


class PartWriter:
    """Writes row groups of ``steps`` and ``images`` into part files of bounded size, and names them in the manifest."""

    def __init__(self, run: Output, tables: Output, manifest: Manifest) -> None:
        self._run, self._tables, self._manifest = run, tables, manifest
        self._open: dict[str, tuple[pa.BufferOutputStream, pq.ParquetWriter]] = {}
        self._name = ""
        self._rows = 0

    def write(self, name: str, steps: pa.Table, images: pa.Table) -> None:
        """One row group in each table. ``name`` names the part if this opens one; the same name replaces it."""
        if not self._open:
            self._name = f"part-{name}.parquet"
            self._begin("steps", steps.schema, _ENCODED)
            self._begin("images", images.schema, _PLAIN)
        for table, rows in (("steps", steps), ("images", images)):
            self._open[table][1].write_table(rows, row_group_size=max(1, rows.num_rows))
        self._rows += steps.num_rows
        if self._rows >= PART_ROWS:
            self.close()

    def close(self) -> None:
        """Put the open part, if there is one."""
        for table, (sink, writer) in self._open.items():
            writer.close()
            self._tables.store.put(f"{partition(table, self._run)}/{self._name}", sink.getvalue().to_pybytes())
        if self._open:
            self._manifest.parts.append(self._name)
        self._open, self._rows = {}, 0

    def _begin(self, table: str, schema: pa.Schema, options: dict[str, Any]) -> None:
        sink = pa.BufferOutputStream()
        self._open[table] = sink, pq.ParquetWriter(sink, schema, **options)


def _manifest_key(run: Output) -> str:
    return f"_manifest/{run.run}.json"


def _parts(tables: Output, table: str, run: Output) -> list[str]:
    return [entry.key.rsplit("/", 1)[-1] for entry in tables.store.list(partition(table, run) + "/")]
