"""The rows of an output as one table of an open format, Delta Lake or Apache Iceberg, with its history.

The ledger stays the truth; an export appends the shards that the table does not have yet. Which those are is asked of
the table itself, so an export that was broken off is simply repeated. Two at a time do no harm: the second one's commit
is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import pyarrow as pa

from tasks.analytics.committed import Output, Shard, list_shards, open_output, read_shard
from tasks.analytics.flatten import SHARD_COLUMNS, flatten_images
from tasks.analytics.schema import IMAGES
from tasks.store.errors import StoreError
from tasks.store.ledger import ShardId
from tasks.store.uris import parse

Format = Literal["delta", "iceberg"]
GROUP_ROWS = 100_000
"""Rows of one append, and so of one data file, at least, but for the last."""


@dataclass(frozen=True)
class ExportSummary:
    """What one export did: shards and rows appended, shards that the table had, and its version after it."""

    table: str
    shards_new: int
    shards_known: int
    rows_new: int
    version: str


class OpenTable(Protocol):
    """A table of an open format."""

    def shards(self) -> set[ShardId]:
        """The shards whose rows it has."""

    def append(self, rows: pa.Table) -> None:
        """Add rows of whole shards in one commit. Raises StoreError if another writer was quicker."""

    def version(self) -> str:
        """What names the table's present state."""


def export(output: str, destination: str, kind: Format, catalog: str = "default") -> ExportSummary:
    """Append what is new in an output to a table of an open format, which is made if there is none.

    Args:
        destination: delta: folder or URL of the table; iceberg: its name, ``namespace.table``.
        catalog: iceberg: name of the catalog in pyiceberg's own settings.

    Raises:
        ValueError: if the library is not installed, or the destination names no table.
        StoreError: if somebody else wrote to the table meanwhile; the same command goes on.
    """
    source = open_output(output)
    table: OpenTable = _Delta(destination) if kind == "delta" else _Iceberg(destination, catalog)
    known = table.shards()
    shards = [shard for shard in list_shards(source) if _id(shard) not in known]
    rows_new = 0
    for rows in _groups(source, shards):
        table.append(rows.sort_by([("key", "ascending"), ("plan", "ascending")]))
        rows_new += len(rows)
    return ExportSummary(destination, len(shards), len(known), rows_new, table.version())


def _id(shard: Shard) -> ShardId | None:
    return ShardId.of(f"shards/{shard.name}")


def _groups(source: Output, shards: list[Shard]) -> Iterator[pa.Table]:
    """Rows of whole shards, ``GROUP_ROWS`` or a few more at a time."""
    ready, size = list[pa.Table](), 0
    for shard in shards:
        rows = flatten_images(read_shard(source, shard, SHARD_COLUMNS)[0])
        ready, size = [*ready, rows], size + len(rows)
        if size >= GROUP_ROWS:
            yield pa.concat_tables(ready)
            ready, size = [], 0
    if ready:
        yield pa.concat_tables(ready)


def _pairs(table: pa.Table) -> set[ShardId]:
    distinct = table.group_by(["plan", "shard"]).aggregate([])
    pairs = zip(distinct["plan"].to_pylist(), distinct["shard"].to_pylist(), strict=True)
    return {ShardId(plan, shard) for plan, shard in pairs}


def _missing(library: str) -> ValueError:
    return ValueError(f"this needs the library {library}: pip install 'fixpoint-diffusion[lake]'")


class _Delta:
    """A table of Delta Lake, by the library deltalake."""

    APP = "fixpoint"

    def __init__(self, url: str) -> None:
        try:
            import deltalake
        except ImportError:
            raise _missing("deltalake") from None
        self._lake = deltalake
        self._options = _storage_options(url)
        place = parse(url)
        location = place.path if place.scheme == "file" else place.uri
        self._table = deltalake.DeltaTable.create(
            location, pa.schema(IMAGES), mode="ignore", name="photos", storage_options=self._options,
            description="Rows of a Fixpoint output; its shards are the record of truth",
        )  # fmt: skip

    def shards(self) -> set[ShardId]:
        return _pairs(self._table.to_pyarrow_dataset().to_table(columns=["plan", "shard"]))

    def append(self, rows: pa.Table) -> None:
        number = (self._table.transaction_version(self.APP) or 0) + 1
        ours = self._lake.CommitProperties(app_transactions=[self._lake.Transaction(self.APP, number)])
        try:
            self._lake.write_deltalake(self._table, rows, mode="append", commit_properties=ours)
        except self._lake.exceptions.CommitFailedError as error:
            raise _refused(error) from error
        self._table.update_incremental()

    def version(self) -> str:
        return str(self._table.version())


class _Iceberg:
    """A table of Apache Iceberg, by the library pyiceberg and one of its catalogs."""

    def __init__(self, name: str, catalog: str) -> None:
        try:
            from pyiceberg.catalog import load_catalog
            from pyiceberg.exceptions import NoSuchTableError
        except ImportError:
            raise _missing("pyiceberg") from None
        namespace, _, last = name.rpartition(".")
        if not namespace or not last or "/" in name:
            raise ValueError(f"{name} names no table of Iceberg: give namespace.table, and --catalog for where it lies")
        here = load_catalog(catalog)
        try:
            self._table = here.load_table(name)
        except NoSuchTableError:
            here.create_namespace_if_not_exists(namespace)
            once = {"commit.retry.num-retries": "0"}  # a second writer must look again at what is there
            self._table = here.create_table_if_not_exists(name, schema=pa.schema(IMAGES), properties=once)
        if self._table.current_snapshot() is None:  # only after the first one is a second writer noticed
            self._table.append(pa.schema(IMAGES).empty_table())

    def shards(self) -> set[ShardId]:
        return _pairs(self._table.scan(selected_fields=("plan", "shard")).to_arrow())

    def append(self, rows: pa.Table) -> None:
        from pyiceberg.exceptions import CommitFailedException

        try:
            self._table.append(rows)
        except CommitFailedException as error:
            raise _refused(error) from error

    def version(self) -> str:
        snapshot = self._table.current_snapshot()
        return str(snapshot.snapshot_id) if snapshot else "empty"


def _refused(error: Exception) -> StoreError:
    return StoreError(
        f"Somebody else wrote to the table meanwhile: run the same command again ({type(error).__name__})"
    )


def _storage_options(url: str) -> dict[str, Any]:
    """What deltalake cannot take from the environment: an S3 server of one's own may speak plain HTTP."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if parse(url).scheme != "s3" or not endpoint:
        return {}
    return {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": str(endpoint.startswith("http://")).lower()}
