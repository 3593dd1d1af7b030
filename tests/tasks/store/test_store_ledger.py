"""Plans, commits, status, verify and clean-up: what the ledger promises, also where data is bad."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.store import compacted, errors, parquet
from tasks.store.ledger import Ledger, ShardId
from tasks.store.objects import open_store
from tasks.store.record import canonical, digest_of
from tasks.store.schema import FOOTER_KEY, PLAN, shard_schema
from tasks.store.verify import gc, verify
from tests.chaos import tiny_job
from tests.chaos.check_output import check
from tests.chaos.tiny_job import Job, entries

QUICK = tiny_job.QUICK


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A finished run of 25 photos in shards of 4."""
    tiny_job.run(Job(str(tmp_path / "out"), 25, 4))
    return tmp_path / "out"


@pytest.fixture
def empty(tmp_path: Path) -> Ledger:
    return Ledger(open_store(str(tmp_path / "empty"), QUICK))


def opened(output: Path) -> Ledger:
    return Ledger(open_store(str(output), QUICK))


def filled(ledger: Ledger, shard: ShardId) -> pa.Table:
    planned = ledger.read_plan_shard(*shard).select(["shard", "row", "key"])
    rows = [{**row, "plan": shard.plan, "status": "ok"} for row in planned.to_pylist()]
    return pa.Table.from_pylist(rows, schema=shard_schema())


# run.json


def test_the_first_run_makes_the_output_its_own(empty: Ledger) -> None:
    first = empty.create_run({"steps": 10, "prompt": "ein Haus"}, {"torch": "2"})
    again = empty.create_run({"prompt": "ein Haus", "steps": 10}, {"torch": "3"})
    assert first.created
    assert not again.created
    assert again.versions == {"torch": "2"}
    assert empty.run().configuration == {"steps": 10, "prompt": "ein Haus"}
    assert [entry.key for entry in empty.store.list()] == ["run.json"]


def test_another_configuration_is_refused_by_name(empty: Ledger) -> None:
    empty.create_run({"steps": 10, "prompt": "house", "old": 1})
    with pytest.raises(errors.ForeignConfiguration) as caught:
        empty.create_run({"steps": 12, "prompt": "house", "new": 2})
    for words in ("steps: there 10, here 12", "new: there None, here 2", "old: there 1, here None", "another output"):
        assert words in str(caught.value)
    assert "prompt" not in str(caught.value)


def test_a_configuration_must_be_plain_json(empty: Ledger) -> None:
    for bad in (float("nan"), {1}, Path()):
        with pytest.raises((ValueError, TypeError)):
            empty.create_run({"x": bad})
    assert list(empty.store.list()) == []


def test_a_store_that_overwrites_is_refused_before_work(empty: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(empty.store._backend, "create", empty.store._backend.write)
    with pytest.raises(errors.NotExclusive):
        empty.create_run({})
    assert list(empty.store.list()) == []


# plans


def test_shard_boundaries(empty: Ledger) -> None:
    for count, shards in {0: 0, 1: 1, 3: 1, 4: 1, 5: 2, 8: 2}.items():
        work = [{"key": f"{count}/{i}", "uri": f"u{count}/{i}"} for i in range(count)]
        added = empty.plan_new(work, 4)
        assert [len(empty.read_plan_shard(added[0], n)) for n in range(shards)] == [4] * (count // 4) + (
            [count % 4] if count % 4 else []
        )
        assert bool(added) == bool(count)


def test_only_what_is_new_is_planned(empty: Ledger) -> None:
    assert empty.plan_new(entries(10), 4) == [1]
    assert empty.plan_new(entries(10), 4) == []
    assert empty.plan_new(reversed(entries(12)), 4) == [2]
    changed = {**entries(12)[3], "etag": "changed"}
    assert empty.plan_new([*entries(12), changed], 4) == [3]
    assert empty.read_plan_shard(3, 0)["etag"].to_pylist() == ["changed"]
    other_prompt = {**entries(12)[3], "target_prompt": "snow"}
    assert empty.plan_new([*entries(12), other_prompt], 4) == [4]
    assert empty.status().planned == 14


def test_a_photo_listed_twice_is_planned_twice_and_no_more(empty: Ledger) -> None:
    twice = entries(3) * 2
    assert empty.plan_new(twice, 4) == [1]
    assert empty.plan_new(twice, 4) == []
    assert empty.plan_new(entries(3) * 3, 4) == [2]
    assert empty.status().planned == 9


def test_large_plans_are_cut_at_whole_shards(empty: Ledger) -> None:
    assert empty.plan_new(entries(25), 4, plan_size=10) == [1, 2, 3, 4]
    assert [empty.read_plan(n).num_rows for n in (1, 2, 3, 4)] == [8, 8, 8, 1]
    assert len(empty.open_shards()) == 7


def test_planners_that_race_share_the_photos(empty: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever one planner is about to create a plan, the other has just created it."""
    rival, add_plan = Ledger(empty.store), Ledger.add_plan
    jumps = iter([entries(5), entries(12), []])

    def late(self: Ledger, rows: pa.Table, number: int) -> bool:
        if self is empty:
            rival.plan_new(next(jumps, []), 4)
        return add_plan(self, rows, number)

    monkeypatch.setattr(Ledger, "add_plan", late)
    assert empty.plan_new(entries(20), 4) == [3]
    planned = [key for n in empty.plans() for key in empty.read_plan(n)["key"].to_pylist()]
    assert sorted(planned) == sorted(tiny_job.keys(20))


def test_a_planner_that_lost_everything_adds_nothing(empty: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    rival, add_plan = Ledger(empty.store), Ledger.add_plan

    def late(self: Ledger, rows: pa.Table, number: int) -> bool:
        if self is empty:
            rival.plan_new(entries(9), 4)
        return add_plan(self, rows, number)

    monkeypatch.setattr(Ledger, "add_plan", late)
    assert empty.plan_new(entries(9), 4) == []
    assert empty.plans() == [1]


@pytest.mark.long
def test_planning_streams(empty: Ledger) -> None:
    """Memory follows the size of a plan, not the number of photos."""
    stream = ({"key": f"{i:07d}.jpg", "uri": f"s3://b/{i:07d}.jpg", "size": i, "etag": "e"} for i in itertools.count())
    tracemalloc.start()
    added = empty.plan_new(itertools.islice(stream, 20_000), 64, plan_size=2_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(added) == 11
    assert peak < 8e6  # bytes; all 20,000 entries would take more than 15e6


@pytest.mark.parametrize("size", [0, -1])
def test_a_shard_holds_at_least_one_photo(empty: Ledger, size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        empty.plan_new(entries(1), size)


def test_a_shard_that_does_not_exist(empty: Ledger) -> None:
    empty.plan_new(entries(4), 4)
    with pytest.raises(errors.NotFound, match="no shard 1"):
        empty.read_plan_shard(1, 1)
    with pytest.raises(errors.NotFound):
        empty.read_plan_shard(2, 0)


# commits


def test_the_first_commit_stands(empty: Ledger) -> None:
    empty.plan_new(entries(4), 4)
    shard = ShardId(1, 0)
    first = empty.commit_shard(*shard, filled(empty, shard), {"model_digest": "m"})
    second = empty.commit_shard(*shard, filled(empty, shard), {"model_digest": "other"})
    assert first.won
    assert not second.won
    assert second.attempt_id == first.attempt_id
    footer = empty.shard_footer(*shard)
    assert footer["attempt_id"] == first.attempt_id
    assert (footer["model_digest"], footer["rows"], footer["ok"], footer["failed"]) == ("m", 4, 4, 0)
    assert empty.open_shards() == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: table.slice(1),
        lambda table: pa.concat_tables([table, table.slice(0, 1)]),
        lambda table: table.set_column(2, "row", pa.array([0, 1, 2, 2], pa.int32())),
        lambda table: table.set_column(3, "key", pa.array(["a", "b", "c", "d"])),
        lambda table: table.set_column(0, "plan", pa.array([2] * 4, pa.int32())),
    ],
)
def test_a_commit_must_hold_each_planned_row_once(empty: Ledger, spoil: Any) -> None:
    empty.plan_new(entries(4), 4)
    with pytest.raises(ValueError, match="each planned row once"):
        empty.commit_shard(1, 0, spoil(filled(empty, ShardId(1, 0))), {})
    assert empty.open_shards() == [ShardId(1, 0)]


def test_rows_may_come_in_any_order(empty: Ledger) -> None:
    empty.plan_new(entries(4), 4)
    table = filled(empty, ShardId(1, 0)).take([2, 0, 3, 1])
    empty.commit_shard(1, 0, table, {})
    assert empty.read_shard(1, 0)["row"].to_pylist() == [0, 1, 2, 3]


def test_every_column_comes_back(empty: Ledger, tmp_path: Path) -> None:
    empty.plan_new(entries(2), 2)
    latents = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float16)
    step = {"step": 1, "timestep": 20, "iteration": 1, "intra": 0.5, "inter": None, "bound": 0.25, "rate": 0.5}
    table = filled(empty, ShardId(1, 0)).to_pylist()
    for row in table:
        row |= {"steps": [step, step], "metrics": [("psnr", 30.5)], "output": {"bytes": b"\x89PNG", "path": None}}
        row |= {"timings": {"read": 0.5}, "latent_shape": [3, 4, 5], "seed": 2**62}
    schema = shard_schema((3, 4, 5))
    plain = pa.Table.from_pylist(table, schema=schema.remove(schema.get_field_index("latent")))
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(latents)
    empty.commit_shard(1, 0, plain.append_column(schema.field("latent"), column), {})
    back = empty.read_shard(1, 0)
    assert back.schema.equals(schema, check_metadata=True)
    assert np.array_equal(back["latent"].combine_chunks().to_numpy_ndarray(), latents)
    assert back["steps"].to_pylist() == [[step, step]] * 2
    assert back["metrics"].to_pylist() == [[("psnr", 30.5)]] * 2
    assert back["output"].to_pylist()[0] == {"bytes": b"\x89PNG", "path": None}
    assert back["seed"].to_pylist() == [2**62] * 2
    assert empty.read_shard(1, 0, ["key", "status"]).column_names == ["key", "status"]
    (path,) = (tmp_path / "empty" / "shards").iterdir()
    query = f"SELECT count(*), len(first(latent)), first(steps)[1].intra, first(metrics)['psnr'] FROM '{path}'"
    assert duckdb.sql(query).fetchall() == [(2, 60, 0.5, 30.5)]


def test_encodings(empty: Ledger, tmp_path: Path) -> None:
    empty.plan_new(entries(2), 2)
    empty.commit_shard(1, 0, filled(empty, ShardId(1, 0)), {})
    (path,) = (tmp_path / "empty" / "shards").iterdir()
    group = pq.read_metadata(path).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert "BYTE_STREAM_SPLIT" in columns["strength"].encodings
    assert "BYTE_STREAM_SPLIT" in columns["steps.list.element.intra"].encodings
    assert "RLE_DICTIONARY" in columns["status"].encodings
    assert "RLE_DICTIONARY" in columns["steps.list.element.step"].encodings
    assert not any("DICTIONARY" in encoding for encoding in columns["output.bytes"].encodings)


def test_pictures_are_never_replaced(empty: Ledger) -> None:
    one = empty.pictures.put(1, "a/b.png", b"one", ".png")
    again = empty.pictures.put(1, "a/b.png", b"one", ".png")
    other = empty.pictures.put(1, "a/b.png", b"two", ".png")
    jpeg = empty.pictures.put(1, "a/b.png", b"one", ".jpg")
    assert one == again
    assert one.path == "images/a/b.png"
    assert jpeg.path == "images/a/b.png.jpg"
    assert other.path == f"images/a/b.{other.sha256[:16]}.png"
    assert empty.store.get(one.path) == b"one"
    assert empty.store.get(other.path) == b"two"
    assert empty.pictures.put(1, "../x.PNG", b"1", ".png").path.startswith("images/__/x~")


def test_a_picture_whose_name_is_a_folder_on_disk_is_stored_all_the_same(empty: Ledger) -> None:
    first = empty.pictures.put(1, "a.png", b"1", ".png")
    below = empty.pictures.put(1, "a.png/b.png", b"2", ".png")
    assert empty.store.get(first.path) == b"1"
    assert empty.store.get(below.path) == b"2"
    assert below.path.startswith("images/b.")


# status, verify, clean-up


def test_status_counts(output: Path) -> None:
    status = opened(output).status()
    assert (status.plans, status.planned, status.committed) == (1, 25, 25)
    assert (status.ok, status.failed, status.shards, status.open_shards) == (23, 2, 7, 0)
    assert status.complete
    (output / "shards" / "000001-00002.parquet").unlink()
    status = opened(output).status()
    assert (status.committed, status.open_shards, status.complete) == (21, 1, False)


def test_a_whole_output_has_no_problems(output: Path) -> None:
    assert list(verify(opened(output))) == []
    assert check(str(output), expected_keys=tiny_job.keys(25)) == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("damage", "where", "words"),
    [
        (lambda o: (o / "shards/000001-00002.parquet").unlink(), "shards/000001-00002.parquet", "not committed"),
        (lambda o: (o / "plans/000001.parquet").unlink(), "shards/000001-00000.parquet", "No readable plan"),
        (lambda o: next(o.rglob("images/**/*.jpg")).unlink(), "images/", "missing"),
        (lambda o: next(o.rglob("images/**/*.jpg")).write_bytes(b""), "images/", "damaged"),
        (lambda o: (o / "shards/000001-00001.parquet").write_bytes(b""), "shards/000001-00001.parquet", "readable"),
        (lambda o: (o / "run.json").write_text("{}"), "run.json", "damaged"),
        (lambda o: (o / "run.json").unlink(), "run.json", "does not exist"),
        (lambda o: (o / "plans/000001.parquet").rename(o / "plans/000003.parquet"), "plans/", "one is missing"),
        (
            lambda o: (o / "shards/000001-00001.parquet").replace(o / "shards/000001-00002.parquet"),
            "shards/000001-00002.parquet",
            "each planned row once",
        ),
    ],
)
def test_verify_names_what_is_wrong(output: Path, damage: Any, where: str, words: str) -> None:
    damage(output)
    problems = list(verify(opened(output)))
    assert any(problem.key.startswith(where) and words in problem.message for problem in problems), problems


@pytest.mark.long
def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """In run.json, plans, shards and pictures alike, wherever the bit; readers of a shard see it too."""
    output, draw = tmp_path / "out", random.Random(7)
    tiny_job.run(Job(str(output), 8, 4))
    folders = ["run.json", "plans", "shards", "images"]
    missed = []
    for i in range(200):
        place = output / folders[i % 4]
        path = draw.choice(sorted(path for path in [place, *place.rglob("*")] if path.is_file()))
        original = path.read_bytes()
        if i % 5 == 4:
            path.write_bytes(original[: draw.randrange(len(original))])
        else:
            position, bit = draw.randrange(len(original)), draw.randrange(8)
            path.write_bytes(original[:position] + bytes([original[position] ^ 1 << bit]) + original[position + 1 :])
        if not list(verify(opened(output))):
            missed.append((path.name, i))
        if path.parent.name == "shards":
            with pytest.raises(errors.StoreError):
                opened(output).read_shard(1, int(path.stem[-5:]))
        path.write_bytes(original)
    assert missed == []
    assert list(verify(opened(output))) == []


def test_a_reply_that_was_damaged_on_the_way_is_read_again(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = opened(output)
    get, damaged = ours.store.get, iter([True, False])

    def flaky(key: str) -> bytes:
        data = get(key)
        return data[:-20] + b"\0" + data[-19:] if next(damaged, False) else data

    monkeypatch.setattr(ours.store, "get", flaky)
    assert len(ours.read_shard(1, 0)) == 4


def test_clean_up_shows_first_and_deletes_only_leftovers(output: Path) -> None:
    before = {path for path in output.rglob("*") if path.is_file()}
    for name in ("images/orphan.png", "images/a/.tmp-12", "shards/.tmp-34", "probe/x", "tables/t.parquet"):
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_bytes(b"x")
    ours = opened(output)
    leftovers = {"images/orphan.png", "images/a/.tmp-12", "shards/.tmp-34", "probe/x"}
    assert {entry.key for entry in gc(ours)} == leftovers
    assert {entry.key for entry in gc(ours, dry_run=False)} == leftovers
    (record,) = output.glob("given-up/*.parquet")
    assert pq.read_table(record).to_pylist() == [{"name": "images/orphan.png"}]
    assert {path for path in output.rglob("*") if path.is_file()} == before | {output / "tables/t.parquet", record}
    assert list(verify(ours)) == []


def test_clean_up_waits_for_the_end_of_the_run(output: Path) -> None:
    (output / "shards/000001-00003.parquet").unlink()
    with pytest.raises(ValueError, match="finish the run first"):
        gc(opened(output), dry_run=False)


# schema versions and determinism


def rewrite(path: Path, change: Any, version: int = 1) -> None:
    """Replace a shard by one another version might have written."""
    metadata = json.loads(pq.read_metadata(path).metadata[FOOTER_KEY]) | {"schema_version": version}
    path.write_bytes(parquet.encode(change(pq.read_table(path)), metadata))


def test_shards_of_other_minor_versions_are_read(output: Path) -> None:
    path = output / "shards/000001-00000.parquet"
    rewrite(path, lambda t: t.append_column("from_the_future", pa.array([1] * len(t))).drop_columns(["nfe", "metrics"]))
    table = opened(output).read_shard(1, 0)
    assert table.schema.equals(shard_schema())
    assert table["nfe"].null_count == table["metrics"].null_count == len(table)
    assert "from_the_future" not in table.column_names
    narrow = shard_schema().field("width").with_type(pa.int16())
    rewrite(path, lambda t: t.set_column(t.schema.get_field_index("width"), narrow, t["width"].cast(pa.int16())))
    assert opened(output).read_shard(1, 0).schema.field("width").type == pa.int32()
    assert list(verify(opened(output))) == []


@pytest.mark.parametrize("version", [0, 2, 99, None])
def test_unknown_schema_versions_are_refused(output: Path, version: Any) -> None:
    for name in ("shards/000001-00000.parquet", "plans/000001.parquet"):
        rewrite(output / name, lambda table: table, version)
    run = json.loads((output / "run.json").read_text()) | {"schema_version": version}
    run.pop("sha256")
    (output / "run.json").write_bytes(canonical({**run, "sha256": digest_of(run)}))
    ours = opened(output)
    for call in (ours.run, lambda: ours.read_shard(1, 0), lambda: ours.read_plan(1), ours.status):
        with pytest.raises(errors.UnknownSchema, match="schema version"):
            call()


def test_a_foreign_parquet_file_is_refused(output: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), output / "shards/000001-00000.parquet")
    for call in (opened(output).status, lambda: opened(output).read_shard(1, 0)):
        with pytest.raises(errors.Corrupt):
            call()


def test_columns_of_the_plan_and_its_footer(output: Path) -> None:
    path = output / "plans/000001.parquet"
    stored = [(field.name, field.type, field.metadata[b"description"]) for field in pq.read_schema(path)]
    assert stored == [(field.name, field.type, field.metadata[b"description"]) for field in PLAN]
    footer = json.loads(pq.read_metadata(path).metadata[FOOTER_KEY])
    assert (footer["schema_version"], footer["rows"], footer["shards"]) == (1, 25, 7)
    assert len(footer["attempt_id"]) == 32


BYTES = """
import hashlib, pyarrow as pa
from tasks.store import parquet
from tasks.store.schema import shard_schema
row = {"plan": 1, "shard": 0, "key": "k", "status": "ok", "metrics": {"b": 1.0, "a": 2.0}}
rows = [{**row, "row": i} for i in range(50)]
table = pa.Table.from_pylist(rows, schema=shard_schema())
print(hashlib.sha256(parquet.encode(table, {"attempt_id": "0", "b": 1, "a": {"z": 1, "y": 2}})).hexdigest())
"""


@pytest.mark.long
def test_bytes_do_not_depend_on_clock_zone_or_hash_seed() -> None:
    zones = ["UTC", "Asia/Kathmandu", "America/St_Johns", "Pacific/Apia"]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", BYTES],
            env={**os.environ, "TZ": zone, "PYTHONHASHSEED": str(seed), "LC_ALL": "C", "PYTHONPATH": "."},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, zone in enumerate(zones)
    ]
    assert len({child.communicate()[0] for child in children}) == 1
    assert all(child.returncode == 0 for child in children)


def test_a_clock_that_jumps_changes_no_outcome(empty: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is ordered by time: files dated in the future or the past are neither newer nor older."""
    empty.create_run(tiny_job.CONFIGURATION)
    root = Path(empty.store.location.path)
    for moment in (0, 2**33, 10**9):
        empty.plan_new(entries(4 + moment % 7), 4)
        for shard in empty.open_shards()[:1]:
            empty.commit_shard(*shard, filled(empty, shard), {})
        for path in root.rglob("*.parquet"):
            os.utime(path, (moment, moment))
    assert next(verify(empty)).message.startswith("This shard is not committed")
    for shard in empty.open_shards():
        empty.commit_shard(*shard, filled(empty, shard), {})
    assert list(verify(empty)) == []


def test_footers_fit_into_the_tail_that_is_read(output: Path) -> None:
    for path in output.glob("*/*.parquet"):
        data = path.read_bytes()
        assert int.from_bytes(data[-8:-4], "little") + 8 < compacted.FOOTER_TAIL / 2
        assert parquet.read_footer(data[-compacted.FOOTER_TAIL :], path.name)["schema_version"] == 1
