"""Part files of the analytics tables, and the manifest that says which of them count."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.committed import Output, Shard, read_json
from tasks.tables import TABLES_VERSION

PART_ROWS = 8_000_000
"""A part file is closed once it holds this many steps."""

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
    saved = read_json(tables, _manifest_key(run))
    try:
        manifest = Manifest(**saved)
    except TypeError:
        return Manifest(run.url)
    etags = {shard.name: shard.etag for shard in shards}
    unchanged = all(etags.get(name) == entry["etag"] for name, entry in manifest.shards.items())
    present = set(manifest.parts) <= set(_parts(tables, "steps", run)) & set(_parts(tables, "images", run))
    current = manifest.tables_version == TABLES_VERSION and manifest.output == run.url
    return manifest if unchanged and present and current else Manifest(run.url)


def save_manifest(run: Output, tables: Output, manifest: Manifest) -> None:
    """Make the parts count; written after them."""
    write_bytes(tables, _manifest_key(run), json.dumps(asdict(manifest), indent=1).encode())


def sweep(run: Output, tables: Output, manifest: Manifest) -> None:
    """Delete part files that the manifest does not name: what a broken-off call or an older version left."""
    for table in ("steps", "images"):
        for name in set(_parts(tables, table, run)) - set(manifest.parts):
            tables.fs.rm_file(f"{partition(tables, table, run)}/{name}")


def partition(tables: Output, table: str, run: Output) -> str:
    """Folder of a run's rows within a table (Hive partitioning)."""
    return f"{tables.root}/{table}/run={run.run}"


def write_bytes(tables: Output, key: str, data: bytes) -> None:
    """Put one small derived object, replacing what was there."""
    path = f"{tables.root}/{key}"
    tables.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    tables.fs.pipe_file(path, data)


def write_table(tables: Output, table: str, run: Output, rows: pa.Table) -> None:
    """Replace a run's rows in one of the small tables."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, **_PLAIN)
    write_bytes(tables, f"{table}/run={run.run}/part-0.parquet", sink.getvalue().to_pybytes())


class PartWriter:
    """Writes row groups of ``steps`` and ``images`` into part files of bounded size, and names them in the manifest."""

    def __init__(self, run: Output, tables: Output, manifest: Manifest) -> None:
        self._run, self._tables, self._manifest = run, tables, manifest
        self._steps: pq.ParquetWriter | None = None
        self._images: pq.ParquetWriter | None = None
        self._rows = 0

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def write(self, name: str, steps: pa.Table, images: pa.Table) -> None:
        """One row group in each table. ``name`` names the part if this opens one; the same name replaces it."""
        if self._steps is None or self._images is None:
            self._manifest.parts.append(f"part-{name}.parquet")
            self._steps = self._open("steps", steps.schema, _ENCODED)
            self._images = self._open("images", images.schema, _PLAIN)
        self._steps.write_table(steps, row_group_size=max(1, steps.num_rows))
        self._images.write_table(images, row_group_size=max(1, images.num_rows))
        self._rows += steps.num_rows
        if self._rows >= PART_ROWS:
            self._close()

    def _open(self, table: str, schema: pa.Schema, options: dict[str, Any]) -> pq.ParquetWriter:
        folder = partition(self._tables, table, self._run)
        self._tables.fs.makedirs(folder, exist_ok=True)
        return pq.ParquetWriter(f"{folder}/{self._manifest.parts[-1]}", schema, filesystem=self._tables.fs, **options)

    def _close(self) -> None:
        for writer in (self._steps, self._images):
            if writer is not None:
                writer.close()
        self._steps = self._images = None
        self._rows = 0


def _manifest_key(run: Output) -> str:
    return f"_manifest/{run.run}.json"


def _parts(tables: Output, table: str, run: Output) -> list[str]:
    with suppress(FileNotFoundError):
        return [str(path).rsplit("/", 1)[-1] for path in tables.fs.ls(partition(tables, table, run), detail=False)]
    return []
