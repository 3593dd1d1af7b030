"""The paths that a run records of one photo draw together, and nobody pays for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from tasks.config import RunConfig
from tasks.photos.sources import list_photos
from tasks.shard.process import process_shard
from tasks.shard.trajectories import ITERATIONS, PATHS
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tests.photographs import write_photos

pytestmark = pytest.mark.model

CONFIG = RunConfig(
    operation="invert", num_inference_steps=4, batch_size=2, prompt="", tolerance=1e-5, method="certified", shard_size=2
)


def run(folder: Path, config: RunConfig) -> pa.Table:
    """Four photos in two shards, of which the very first cannot be read; the committed rows."""
    write_photos(folder / "in", 3)
    (folder / "in" / "000-a.png").write_bytes(b"")
    ledger = Ledger(open_store(str(folder / "out")))
    ledger.create_run(config.identity())
    ledger.plan_new(list_photos(str(folder / "in")), config.shard_size)
    for shard in ledger.open_shards():
        process_shard(str(folder / "out"), config, *shard)
    return pa.concat_tables(ledger.read_shard(*shard) for shard in sorted(ledger.committed()))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run(tmp_path_factory.mktemp("paths"), CONFIG).to_pylist()


def test_one_photo_of_the_first_shard_has_paths(rows: list[dict[str, Any]]) -> None:
    assert [bool(row["paths"]) for row in rows] == [False, True, False, False]
    paths = rows[1]["paths"]
    assert len(paths) == 2 * PATHS * (ITERATIONS + 1)
    assert {entry["step"] for entry in paths} == {0, 3}
    assert rows[1]["nfe"] == rows[1]["nfe_inversion"] + 4  # recording them is not the photo's expense


def test_the_paths_start_apart_and_draw_together(rows: list[dict[str, Any]]) -> None:
    entries = rows[1]["paths"]
    for step in (0, 3):
        at = [entry for entry in entries if entry["step"] == step]
        starts = [entry["distance"] for entry in at if entry["iteration"] == 0 and entry["path"] > 0]
        ends = [entry["distance"] for entry in at if entry["iteration"] == ITERATIONS]
        assert min(starts) > 0.5
        assert max(ends) < 0.9 * min(starts)  # four steps are few: the last one contracts by 2 % an iteration
        assert all(np.hypot(entry["x"], entry["y"]) <= entry["distance"] + 1e-5 for entry in at)
        origin = [(entry["x"], entry["y"]) for entry in at if entry["path"] == 0 and entry["iteration"] == ITERATIONS]
        assert origin == [(0, 0)]


def test_no_steps_no_paths(tmp_path: Path) -> None:
    found = run(tmp_path, CONFIG.model_copy(update={"save_steps": False, "num_inference_steps": 2}))
    assert found["paths"].null_count == len(found)


def test_duckdb_reads_them(tmp_path: Path) -> None:
    run(tmp_path, CONFIG.model_copy(update={"num_inference_steps": 2}))
    counted = duckdb.sql(
        f"SELECT p.path, count(*) FROM (SELECT unnest(paths) AS p FROM read_parquet('{tmp_path}/out/shards/*.parquet')) "
        "GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert counted == [(path, 2 * (ITERATIONS + 1)) for path in range(PATHS)]
