"""What lets a query skip: rows in the order of keys, statistics of keys and states, page indexes."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.analytics.current import update_current
from tasks.analytics.export import export
from tests.ledgers import Recipe, write_ledger


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("skipping")
    write_ledger(
        root / "night", root / "photos", Recipe(photos=12, photos_per_shard=4, inference_steps=2, size=(24, 16))
    )
    update_current(str(root / "night"))
    export(str(root / "night"), str(root / "lake"), "delta")
    return root


@pytest.mark.parametrize("files", ["night/shards/*.parquet", "night/current/*.parquet", "lake/*.parquet"])
def test_queries_by_key_and_state_can_skip(place: Path, files: str) -> None:
    found = sorted(place.glob(files))
    assert found
    for path in found:
        keys = pq.read_table(path, columns=["key"])["key"].to_pylist()
        assert "shards" in files or keys == sorted(keys)  # a commit has the order of its plan, which lists by key
        parquet = pq.ParquetFile(path)
        columns = {
            parquet.metadata.row_group(0).column(i).path_in_schema: i for i in range(parquet.metadata.num_columns)
        }
        for name in {"key", "status"} & set(columns):
            for group in range(parquet.num_row_groups):
                column = parquet.metadata.row_group(group).column(columns[name])
                assert column.statistics is not None
                assert column.statistics.has_min_max
        if not files.startswith("lake"):  # deltalake writes the lake's files
            assert parquet.metadata.row_group(0).column(columns["key"]).has_offset_index
            assert parquet.metadata.row_group(0).column(columns["key"]).has_column_index
