"""Every reader of an output finds in a compacted one what it found before: while objects are removed, and after that."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from tasks.analytics.aggregate import aggregate
from tasks.analytics.committed import Shard, list_shards, open_output, read_rows, read_shard, row_files
from tasks.analytics.current import update_current
from tasks.analytics.export import export
from tasks.estimate import rates_of
from tasks.report.page import write_report
from tasks.store.compact import compact, originals, remove_originals
from tasks.store.errors import Corrupt
from tasks.store.ledger import Ledger
from tasks.store.names import compacted_key
from tasks.store.objects import open_store
from tests.chaos import tiny_job
from tests.ledgers import Recipe, add_shard, write_ledger

RECIPE = Recipe(photos=12, photos_per_shard=4, inference_steps=2, size=(24, 16))
ROOT = Path(__file__).parents[3]


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """An output of three shards, none of them compacted."""
    write_ledger(tmp_path / "night", tmp_path / "photos", RECIPE)
    (tmp_path / "night" / "run.json").unlink()
    opened(tmp_path / "night").create_run({"operation": "dehaze"})
    return tmp_path / "night"


def opened(output: Path) -> Ledger:
    return Ledger(open_store(str(output)))


def compacted(output: Path) -> None:
    """Compact an output and remove the commits' own objects."""
    compact(opened(output), least=1, most=2)
    ledger = opened(output)
    remove_originals(ledger, originals(ledger))
    assert list((output / "shards").iterdir()) == []


def tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        name: ds.dataset(folder / name, format="parquet").to_table().to_pylist()
        for name in ("steps", "images", "runs", "summary")
    }


@pytest.mark.long
def test_analytics_tables_are_the_same_and_those_that_stand_stay_true(night: Path, tmp_path: Path) -> None:
    aggregate([str(night)], str(tmp_path / "before"))
    compacted(night)
    done = aggregate([str(night)], str(tmp_path / "after"))
    assert (done.shards_new, done.images_new, done.unreadable) == (3, 12, ())
    assert tables(tmp_path / "after") == tables(tmp_path / "before")
    again = aggregate([str(night)], str(tmp_path / "before"))
    assert (again.shards_new, again.shards_known) == (0, 3)


def test_a_listing_of_before_is_read_while_objects_are_removed(night: Path) -> None:
    source = open_output(str(night))
    columns = ("key", "status", "steps", "latent_shape")
    shards = list_shards(source)
    before = [read_shard(source, shard, columns) for shard in shards]
    pictures = [list(read_rows(source, shard, ("output",), {0, 3})) for shard in shards]
    compacted(night)
    stale = open_output(str(night))
    assert [read_shard(stale, shard, columns) for shard in shards] == before
    stale = open_output(str(night))
    assert [list(read_rows(stale, shard, ("output",), {0, 3})) for shard in shards] == pictures
    assert list_shards(open_output(str(night))) == shards
    with pytest.raises(FileNotFoundError):
        read_shard(stale, Shard("000009-00000.parquet"), columns)


@pytest.mark.long
def test_what_is_current_and_the_report_are_the_same(night: Path, tmp_path: Path) -> None:
    update_current(str(night))
    before = ds.dataset(night / "current/photos.parquet").to_table()
    said = write_report([str(night)], str(tmp_path / "before"))
    compacted(night)
    (night / "current/photos.parquet").unlink()
    assert update_current(str(night)).shards_new == 3
    assert ds.dataset(night / "current/photos.parquet").to_table().equals(before)
    after = write_report([str(night)], str(tmp_path / "after"))
    assert (after.photos, after.ok, after.failed, after.html_bytes) == (12, said.ok, said.failed, said.html_bytes)


@pytest.mark.long
def test_a_table_of_an_open_format_is_appended_to_as_before(night: Path, tmp_path: Path) -> None:
    export(str(night), str(tmp_path / "lake"), "delta")
    compacted(night)
    assert export(str(night), str(tmp_path / "lake"), "delta").rows_new == 0
    add_shard(night, tmp_path / "photos", Recipe(16, 4, 2, size=(24, 16)), 3)
    assert export(str(night), str(tmp_path / "lake"), "delta").rows_new == 4
    assert export(str(night), str(tmp_path / "anew"), "delta").rows_new == 16


def test_storage_is_estimated_as_before(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.create_run({})
    ledger.plan_new(tiny_job.entries(4), 1)
    for shard in ledger.open_shards():
        footer = {"started_at": "2026-11-20T10:00:00+00:00", "finished_at": "2026-11-20T10:00:40+00:00"}
        ledger.commit_shard(*shard, tiny_job.rows(ledger, shard), footer)
    before = rates_of(str(tmp_path))
    compact(opened(tmp_path), least=1, most=2)
    both = rates_of(str(tmp_path))
    compacted(tmp_path)
    assert rates_of(str(tmp_path)) == both
    assert (both.seconds, both.picture_bytes) == (before.seconds, before.picture_bytes)
    assert both.row_bytes < before.row_bytes


def test_a_compacted_file_that_cannot_be_read_is_named_and_the_others_are_read(night: Path, tmp_path: Path) -> None:
    compacted(night)
    (night / compacted_key(2)).write_bytes(b"no Parquet")
    done = aggregate([str(night)], str(tmp_path / "tables"))
    assert (done.shards_new, len(done.unreadable)) == (2, 1)
    assert compacted_key(2) in done.unreadable[0]
    with pytest.raises(Corrupt):
        list_shards(open_output(str(night)))


@pytest.mark.parametrize("then", ["nothing is compacted", "both are there", "the objects are removed"])
def test_the_recipe_for_compacted_outputs_has_each_row_once(
    night: Path, monkeypatch: pytest.MonkeyPatch, then: str, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/RECIPES.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "compacted/" in block]
    if then == "both are there":
        compact(opened(night), least=1, most=2)
    elif then == "the objects are removed":
        compacted(night)
    monkeypatch.chdir(night.parent)
    duckdb.sql("DROP VIEW IF EXISTS photos")
    exec(compile(code, "recipe", "exec"), {})
    assert capsys.readouterr().out == "[(12, 12)]\n"


def test_plain_parquet_readers_read_the_files(night: Path) -> None:
    before = ds.dataset(night / "shards").to_table()
    compacted(night)
    after = ds.dataset(night / "compacted").to_table()
    assert after.schema.equals(before.schema)
    assert after.sort_by([("shard", "ascending"), ("row", "ascending")]).select(["key"]) == before.select(["key"])
    assert isinstance(after.schema.field("latent").type, pa.FixedShapeTensorType)


def test_files_for_any_reader_hold_each_row_once(night: Path) -> None:
    def keys() -> list[str]:
        files = duckdb.execute("SELECT key FROM read_parquet($1, union_by_name = true)", [row_files(str(night))])
        return sorted(key for (key,) in files.fetchall())

    before = keys()
    assert len(before) == 12
    compact(opened(night), least=1, most=2)
    assert keys() == before
    compacted(night)
    assert keys() == before
