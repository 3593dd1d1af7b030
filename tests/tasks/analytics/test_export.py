"""The table of an open format has each row of the ledger once, whatever broke off and whoever else wrote."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from pyiceberg.utils.config import Config

from tasks.analytics import export as module
from tasks.analytics.export import Format, export
from tasks.store.errors import StoreError
from tests.ledgers import Recipe, add_shard, write_ledger
from tests.servers import S3Server

pytestmark = pytest.mark.server
RECIPE = Recipe(photos=12, photos_per_shard=4, inference_steps=2, size=(24, 16))
LATER = replace(RECIPE, photos=20)
KINDS: tuple[Format, ...] = ("delta", "iceberg")


@pytest.fixture
def night(tmp_path: Path) -> Path:
    write_ledger(tmp_path / "night", tmp_path / "photos", RECIPE)
    return tmp_path / "night"


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Format], tuple[str, Callable[[], pa.Table]]]:
    """Where a table of a kind goes, and what its own library reads there."""
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__WAREHOUSE", (tmp_path / "warehouse").as_uri())
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # the environment is read once

    def read_iceberg() -> pa.Table:
        from pyiceberg.catalog import load_catalog

        return load_catalog("default").load_table("photos.night").scan().to_arrow()

    def read_delta() -> pa.Table:
        from deltalake import DeltaTable

        return DeltaTable(tmp_path / "table").to_pyarrow_table()

    places = {"delta": (str(tmp_path / "table"), read_delta), "iceberg": ("photos.night", read_iceberg)}
    return lambda kind: places[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_there_once_and_the_next_night_is_appended(night: Path, lake: Any, kind: Format) -> None:
    place, read = lake(kind)
    first = export(str(night), place, kind)
    assert (first.shards_new, first.shards_known, first.rows_new) == (3, 0, 12)
    add_shard(night, night.parent / "photos", LATER, 3)
    second = export(str(night), place, kind)
    assert (second.shards_new, second.shards_known) == (1, 3)
    assert second.version != first.version
    assert export(str(night), place, kind).shards_new == 0
    with duckdb.connect() as connection:
        connection.register("exported", read())
        connection.execute(f"CREATE VIEW ledger AS FROM read_parquet('{night}/shards/*.parquet')")
        for question in (
            "SELECT key, status, verdict, output_sha256 FROM {}",
            "SELECT status, count(*) FROM {} GROUP BY 1",
        ):
            answers = [
                connection.sql(f"{question} ORDER BY ALL".format(of)).fetchall() for of in ("exported", "ledger")
            ]
            assert answers[0] == answers[1]


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_that_is_broken_off_is_finished_and_a_second_writer_is_refused(
    night: Path, lake: Any, kind: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, read = lake(kind)
    monkeypatch.setattr(module, "GROUP_ROWS", 4)
    groups = module._groups

    def beside(*arguments: Any) -> Any:
        """Another export does everything after this one has looked at the table, and before it appends."""
        monkeypatch.setattr(module, "_groups", groups)
        export(str(night), place, kind)
        yield from groups(*arguments)

    monkeypatch.setattr(module, "_groups", beside)
    with pytest.raises(StoreError, match="Somebody else wrote"):
        export(str(night), place, kind)
    monkeypatch.setattr(module, "_groups", lambda *arguments: iter(list(groups(*arguments))[:1]))  # broken off
    add_shard(night, night.parent / "photos", LATER, 3)
    add_shard(night, night.parent / "photos", LATER, 4)
    assert export(str(night), place, kind).rows_new == 4
    monkeypatch.setattr(module, "_groups", groups)
    assert export(str(night), place, kind).rows_new == 4
    keys = read()["key"].to_pylist()
    assert len(keys) == len(set(keys)) == 20


def test_from_bucket_to_bucket(night: Path, seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweedfs.env.items():
        monkeypatch.setenv(name, value)
    url = seaweedfs.fresh_url()
    assert export(str(night), f"{url}/table", "delta").rows_new == 12
    again = export(str(night), f"{url}/table", "delta")
    assert (again.rows_new, again.shards_known) == (0, 3)
    assert os.environ["AWS_ENDPOINT_URL"]


def test_what_is_missing_or_no_table_is_a_sentence(night: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"give namespace\.table"):
        export(str(night), "s3://bucket/table", "iceberg")
    monkeypatch.setitem(__import__("sys").modules, "deltalake", None)
    with pytest.raises(ValueError, match=r"fixpoint-diffusion\[lake\]"):
        export(str(night), "table", "delta")
