"""The analytics tables against plain Python over the same shards; increments, crashes, remote stores, size."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.aggregate import build, measure
from tasks.analytics import aggregate as module
from tasks.analytics.aggregate import aggregate
from tasks.analytics.committed import Output, Shard, list_shards, open_output
from tasks.analytics.schema import TABLES, schema_markdown
from tasks.analytics.summarise import busy_seconds, connect, moment
from tasks.store.schema import FOOTER_KEY, STAGES, shard_schema
from tests.ledgers import Recipe, add_shard, write_ledger
from tests.servers import run_moto

RECIPE = Recipe(photos=15, photos_per_shard=5, inference_steps=6, inter=True, size=(60, 40))


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ledger")
    write_ledger(root / "night", root / "photos", RECIPE)
    return root / "night"


@pytest.fixture
def copy(ledger: Path, tmp_path: Path) -> Path:
    shutil.copytree(ledger, tmp_path / "night")
    return tmp_path / "night"


def shard_rows(output: Path) -> list[dict]:
    """The ledger row by row, without any of our code."""
    return [row for path in sorted(output.glob("shards/*.parquet")) for row in pq.ParquetFile(path).read().to_pylist()]


def _files(tables: Path, name: str) -> list[str]:
    return [str(path) for path in sorted((tables / name).glob("*/*.parquet"))]


def table(tables: Path, name: str, columns: str = "*") -> list[tuple]:
    source = f"read_parquet({_files(tables, name)}, hive_partitioning = false)"
    return duckdb.sql(f"SELECT {columns} FROM {source} ORDER BY ALL").fetchall()


def test_steps_are_the_flattened_ledger(ledger: Path, tmp_path: Path) -> None:
    done = aggregate([str(ledger)], str(tmp_path))
    expected = []
    for row in shard_rows(ledger):
        nfe, steps = 0, row["steps"] or []
        for index, entry in enumerate(steps):
            nfe += 1 if entry["inter"] is None else 2
            last = index + 1 == len(steps) or steps[index + 1]["step"] != entry["step"]
            place = (row["plan"], row["shard"], row["row"], row["image_id"], row["key"])
            expected.append((*place, *entry.values(), nfe, last))
    assert table(tmp_path, "steps") == sorted(expected)
    assert done.steps_new == len(expected)


def test_running_nfe_ends_at_the_nfe_of_the_inversion(ledger: Path, tmp_path: Path) -> None:
    aggregate([str(ledger)], str(tmp_path))
    ends = table(tmp_path, "steps", "DISTINCT key, max(nfe) OVER (PARTITION BY plan, shard, row)")
    assert ends == sorted((row["key"], row["nfe_inversion"]) for row in shard_rows(ledger) if row["status"] == "ok")


def test_images_keep_every_scalar(ledger: Path, tmp_path: Path) -> None:
    aggregate([str(ledger)], str(tmp_path))
    paths = list((tmp_path / "images").rglob("*.parquet"))
    images = pa.concat_tables(pq.ParquetFile(path).read() for path in paths).to_pylist()
    rows = shard_rows(ledger)
    assert len(images) == len(rows) == RECIPE.photos
    scalars = [name for name in TABLES["images"].names if name in shard_schema().names]
    for image, row in zip(images, rows, strict=True):
        assert {name: image[name] for name in scalars} == {name: row[name] for name in scalars}
        assert image["iterations"] == len(row["steps"] or [])
        for stage in STAGES:
            assert image[f"seconds_{stage}"] == (row["timings"] or {}).get(stage)
        total = sum(row["timings"].values()) if row["timings"] else None
        assert image["seconds"] == (total if total is None else pytest.approx(total, rel=1e-6))


def test_schemas_are_as_declared_and_nothing_heavy_is_kept(ledger: Path, tmp_path: Path) -> None:
    aggregate([str(ledger)], str(tmp_path))
    for name, schema in TABLES.items():
        for path in (tmp_path / name).rglob("*.parquet"):
            file = pq.ParquetFile(path)
            assert file.schema_arrow.names == schema.names
            assert [str(kind) for kind in file.schema_arrow.types] == [str(kind) for kind in _as_read(schema).types]
            codecs = {file.metadata.row_group(0).column(index).compression for index in range(len(schema))}
            assert codecs == {"ZSTD"}
    assert not {"latent", "output", "haze_map"} & set(TABLES["images"].names)


def _as_read(schema: pa.Schema) -> pa.Schema:
    """The schema as Parquet gives it back."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink, store_schema=False)
    return pq.read_schema(pa.BufferReader(sink.getvalue()))


def test_latents_and_pictures_are_never_read(copy: Path, tmp_path: Path) -> None:
    """Every byte of the heavy columns is overwritten; whoever read them would fail or give other numbers."""
    aggregate([str(copy)], str(tmp_path / "before"))
    spoiled = 0
    for path in copy.glob("shards/*.parquet"):
        data = bytearray(path.read_bytes())
        group = pq.ParquetFile(path).metadata.row_group(0)
        for index in range(group.num_columns):
            column = group.column(index)
            if column.path_in_schema.split(".")[0] in {"latent", "output", "haze_map"}:
                start = min(filter(None, [column.dictionary_page_offset, column.data_page_offset]))
                data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
                spoiled += column.total_compressed_size
        path.write_bytes(data)
    with pytest.raises(OSError, match=r"(?i)deserialize|corrupt|invalid|expected|thrift|end of"):
        pq.read_table(next(copy.glob("shards/*.parquet")))
    aggregate([str(copy)], str(tmp_path / "after"))
    assert spoiled > 10_000
    assert table(tmp_path / "before", "images") == table(tmp_path / "after", "images")


@pytest.mark.long
def test_a_second_call_reads_only_what_is_new(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    honest = module.read_shard

    def watch(run: Output, shard: Shard, columns: Sequence[str]) -> object:
        read.append(shard.name)
        return honest(run, shard, columns)

    monkeypatch.setattr(module, "read_shard", watch)
    tables = tmp_path / "tables"
    assert aggregate([str(copy)], str(tables)).shards_new == 3
    assert len(read) == 3
    idle = aggregate([str(copy)], str(tables))
    assert (idle.shards_new, idle.shards_known, idle.images_new, len(read)) == (0, 3, 0, 3)
    added = add_shard(copy, tmp_path / "photos", Recipe(**{**vars(RECIPE), "photos": 20}), 3)
    more = aggregate([str(copy)], str(tables))
    assert (more.shards_new, more.images_new, read[3:]) == (1, 5, [added.name])
    aggregate([str(copy)], str(tmp_path / "fresh"))
    for name in ("steps", "images", "summary", "runs"):
        assert table(tables, name) == table(tmp_path / "fresh", name)


@pytest.mark.long
@pytest.mark.parametrize("damage", ["manifest", "part", "shard", "version"])
def test_a_run_is_rebuilt_when_the_manifest_is_not_true(copy: Path, tmp_path: Path, damage: str) -> None:
    tables = tmp_path / "tables"
    aggregate([str(copy)], str(tables))
    manifest = next((tables / "_manifest").iterdir())
    if damage == "manifest":
        manifest.unlink()
    elif damage == "part":
        next((tables / "steps").rglob("*.parquet")).unlink()
    elif damage == "shard":
        add_shard(copy, tmp_path / "photos", Recipe(**{**vars(RECIPE), "seed": 7}), 1)
    else:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"tables_version": 0}))
    assert aggregate([str(copy)], str(tables)).shards_new == 3
    aggregate([str(copy)], str(tmp_path / "fresh"))
    for name in ("steps", "images", "summary"):
        assert table(tables, name) == table(tmp_path / "fresh", name)


@pytest.mark.long
@pytest.mark.parametrize("point", ["small_tables", "save_manifest"])
def test_a_crash_leaves_no_row_twice(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    tables = tmp_path / "tables"
    aggregate([str(copy)], str(tables))
    add_shard(copy, tmp_path / "photos", Recipe(**{**vars(RECIPE), "photos": 20}), 3)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, point, crash)
        with pytest.raises(KeyboardInterrupt):
            aggregate([str(copy)], str(tables))
    aggregate([str(copy)], str(tables))
    aggregate([str(copy)], str(tmp_path / "fresh"))
    for name in ("steps", "images", "summary", "runs"):
        assert table(tables, name) == table(tmp_path / "fresh", name)


def test_several_outputs_share_a_destination(ledger: Path, copy: Path, tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    both = aggregate([str(ledger), str(copy), str(copy)], str(tables))
    assert both.runs[0] == open_output(str(ledger)).run
    assert len(set(both.runs)) == len(both.runs) == 2
    assert sorted(path.name for path in (tables / "steps").iterdir()) == sorted(f"run={run}" for run in both.runs)
    counted = duckdb.sql(
        f"SELECT run, count(*) FROM read_parquet('{tables}/images/*/*.parquet', hive_partitioning = true) GROUP BY 1"
    ).fetchall()
    assert dict(counted) == dict.fromkeys(both.runs, RECIPE.photos)


def test_summary_and_runs_equal_numpy(ledger: Path, tmp_path: Path) -> None:
    aggregate([str(ledger)], str(tmp_path))
    rows = shard_rows(ledger)
    ok = [row for row in rows if row["status"] == "ok"]
    summary = {(row[0], row[1], row[2]): row[3:] for row in table(tmp_path, "summary")}
    for step in range(RECIPE.inference_steps):
        ends = [[entry for entry in row["steps"] if entry["step"] == step][-1] for row in ok]
        for name in ("intra", "inter", "bound"):
            values = np.array([entry[name] for entry in ends], np.float32)
            count, share, total, mean, *rest = summary[name, None, step][:10]
            assert (count, share) == (len(ok), None)
            assert total == pytest.approx(values.sum(dtype=float), rel=1e-5)
            assert mean == pytest.approx(values.mean(dtype=float), rel=1e-5)
            assert rest[:5] == pytest.approx(np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]), rel=1e-4)
            assert rest[5] == pytest.approx(values.max())
    converged = sum(row["inversion_status"] == "converged" for row in ok)
    assert summary["inversion_status", "converged", None][:2] == (converged, converged / len(rows))
    failed = [row["error_code"] for row in rows if row["status"] == "failed"]
    assert {key[1]: value[0] for key, value in summary.items() if key[0] == "failure"} == {
        code: failed.count(code) for code in failed
    }
    assert summary["nfe", None, None][3] == pytest.approx(np.mean([row["nfe"] for row in ok]))
    invert = [row["timings"]["invert"] for row in ok]
    assert summary["seconds", "invert", None][2] == pytest.approx(sum(invert), rel=1e-5)
    run = dict(zip(TABLES["runs"].names, table(tmp_path, "runs")[0], strict=False))
    assert (run["shards"], run["photos"], run["ok"], run["failed"]) == (3, len(rows), len(ok), len(failed))
    assert run["busy_seconds"] == 3 * 40.0
    assert json.loads(run["configuration"])["prompt"] == "haze"


def test_busy_time_is_the_union_of_the_shards_spans() -> None:
    spans = [(moment(start), moment(end)) for start, end in [(0, 10), (5, 12), (100, 101), (2, 3)]]
    assert busy_seconds(spans) == 13.0
    assert busy_seconds([]) == 0.0


def test_long_queries_print_no_progress_bar() -> None:
    """DuckDB would draw one on standard output, in the middle of what --json prints."""
    with connect() as connection:
        assert connection.sql("SELECT current_setting('enable_progress_bar')").fetchall() == [(False,)]


def test_moments_are_read_tolerantly() -> None:
    same = ["2026-11-20T10:00:00+00:00", "2026-11-20T11:00:00+01:00", "2026-11-20T10:00:00Z", "2026-11-20T10:00:00"]
    assert len({moment(text) for text in [*same, 1795168800]}) == 1
    assert moment("yesterday") is None
    assert moment(None) is None


def test_bare_shards_will_do(tmp_path: Path) -> None:
    """No run.json, no footer, no steps, no times: still a row a photo."""
    (tmp_path / "bare/shards").mkdir(parents=True)
    rows = pa.table({"plan": [1, 1], "shard": [0, 0], "row": [0, 1], "key": ["a", "b"], "status": ["ok", "failed"]})
    pq.write_table(rows, tmp_path / "bare/shards/000001-00000.parquet")
    done = aggregate([str(tmp_path / "bare")], str(tmp_path / "tables"))
    assert (done.images_new, done.steps_new) == (2, 0)
    assert table(tmp_path / "tables", "images", "key, status, iterations") == [("a", "ok", 0), ("b", "failed", 0)]
    assert table(tmp_path / "tables", "summary", "measure, name, count") == [
        ("status", "failed", 1),
        ("status", "ok", 1),
    ]


def test_strange_files_among_the_shards_are_ignored(copy: Path, tmp_path: Path) -> None:
    (copy / "shards" / ".tmp-123").write_bytes(b"half")
    (copy / "shards" / "notes.parquet").write_bytes(b"not ours")
    assert len(list_shards(open_output(str(copy)))) == 3
    assert aggregate([str(copy)], str(tmp_path / "tables")).shards_new == 3


def test_keys_of_any_shape_come_through(tmp_path: Path) -> None:
    keys = ["ü/ñ 1%2F#?.jpg", 'it\'s "quoted".png', "line\nbreak", "\u202eevil.jpg", "x" * 900]
    folder = tmp_path / "it's a ledger, ü"
    (folder / "shards").mkdir(parents=True)
    count = len(keys)
    entry = {"step": 0, "timestep": 1, "iteration": 1, "intra": 0.1, "inter": None, "bound": 0.1, "rate": 0.5}
    rows = [
        {"plan": 1, "shard": 0, "row": row, "key": key, "image_id": f"{row:064x}", "status": "ok", "steps": [entry]}
        for row, key in enumerate(keys)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=shard_schema()), folder / "shards/000001-00000.parquet")
    aggregate([str(folder)], str(tmp_path / "a 'table'"))
    for name in ("steps", "images"):
        found = pq.ParquetFile(next((tmp_path / "a 'table'" / name).rglob("*.parquet"))).read(["key"])
        assert found.column("key").to_pylist() == keys
    assert count == 5


def test_empty_outputs_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no committed shards"):
        aggregate([str(tmp_path / "nothing")], str(tmp_path / "tables"))
    with pytest.raises(ValueError, match="No output given"):
        aggregate([], str(tmp_path / "tables"))


def damage(path: Path, kind: str) -> None:
    """Something else in a shard's place."""
    if kind == "newer":
        newer = pq.ParquetFile(path).read().select(["plan", "key"])
        pq.write_table(newer.replace_schema_metadata({FOOTER_KEY: json.dumps({"schema_version": 99})}), path)
    elif kind == "foreign":
        pq.write_table(pa.table({"key": [1, 2], "steps": ["a", "b"]}), path)
    else:
        path.write_bytes({"empty": b"", "garbage": b"PAR1" + bytes(50), "cut": path.read_bytes()[:-40]}[kind])


@pytest.mark.long
@pytest.mark.parametrize("kind", ["newer", "foreign", "empty", "garbage", "cut"])
def test_what_is_no_shard_is_named_and_left_out(copy: Path, tmp_path: Path, kind: str) -> None:
    first, second, third = sorted(copy.glob("shards/*.parquet"))
    damage(second, kind)
    done = aggregate([str(copy)], str(tmp_path / "tables"))
    assert (done.shards_new, len(done.unreadable)) == (2, 1)
    assert f"shards/{second.name}" in done.unreadable[0]
    again = aggregate([str(copy)], str(tmp_path / "tables"))
    assert (again.shards_new, again.shards_known, len(again.unreadable)) == (0, 2, 1)
    for path in (first, third):
        damage(path, kind)
    with pytest.raises(ValueError, match="no committed shard that can be read"):
        aggregate([str(copy)], str(tmp_path / "more"))


@pytest.mark.long
def test_a_manifest_of_somebody_else_is_made_anew(ledger: Path, tmp_path: Path) -> None:
    aggregate([str(ledger)], str(tmp_path))
    (kept,) = (tmp_path / "_manifest").iterdir()
    for text in ('{"shards": {"a": 1}}', '{"shards": {"a": {}}, "output": 1, "parts": 2}', "[]", "", '{"no": 1}'):
        kept.write_text(text)
        assert aggregate([str(ledger)], str(tmp_path)).shards_new == 3


def test_progress_counts_up_to_the_new_shards(ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_SHARDS", 2)
    seen: list[tuple[int, int]] = []
    aggregate([str(ledger)], str(tmp_path), lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]


@pytest.mark.long
def test_parts_are_closed_when_they_are_large(ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_SHARDS", 1)
    monkeypatch.setattr("tasks.analytics.part_files.PART_ROWS", 1)
    aggregate([str(ledger)], str(tmp_path / "many"))
    monkeypatch.undo()
    aggregate([str(ledger)], str(tmp_path / "one"))
    assert len(list((tmp_path / "many/steps").rglob("*.parquet"))) == 3
    assert len(list((tmp_path / "one/steps").rglob("*.parquet"))) == 1
    assert table(tmp_path / "many", "steps") == table(tmp_path / "one", "steps")
    assert table(tmp_path / "many", "summary") == table(tmp_path / "one", "summary")


@pytest.mark.long
def test_a_bucket_works_like_a_folder(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with run_moto() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        server.make_bucket("photos")
        client = server.client()
        for path in [*copy.glob("shards/*"), copy / "run.json"]:
            client.put_object(Bucket="photos", Key=f"night/{path.relative_to(copy)}", Body=path.read_bytes())
        done = aggregate(["s3://photos/night"], "s3://photos/tables")
        assert (done.shards_new, done.images_new) == (3, RECIPE.photos)
        assert aggregate(["s3://photos/night"], "s3://photos/tables").shards_known == 3
        for item in client.list_objects_v2(Bucket="photos", Prefix="tables/")["Contents"]:
            (tmp_path / item["Key"]).parent.mkdir(parents=True, exist_ok=True)
            body = client.get_object(Bucket="photos", Key=item["Key"])["Body"].read()
            (tmp_path / item["Key"]).write_bytes(body)
    aggregate([str(copy)], str(tmp_path / "local"))
    for name in ("images", "summary"):
        assert table(tmp_path / "tables", name) == table(tmp_path / "local", name)


def test_the_schema_document_is_current() -> None:
    document = Path(__file__).parents[3] / "docs" / "SCHEMA.md"
    assert document.read_text() == schema_markdown(), "run: python -m tasks.analytics.schema > docs/SCHEMA.md"


def test_every_column_is_described() -> None:
    for schema in TABLES.values():
        for field in schema:
            assert (field.metadata or {}).get(b"description"), field.name


@pytest.mark.long
def test_ten_thousand_photos_fit_in_memory_and_patience(tmp_path: Path) -> None:
    """A small sibling of benchmarks/aggregate.py: half a million iterations."""
    build(tmp_path / "ledger", photos=10_000, steps=25, iterations=2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # what earlier tests of this process reached
    found = measure(tmp_path / "ledger", tmp_path / "tables")
    assert (found["images"], found["steps"]) == (10_000, 500_000)
    assert found["peak_mb"] - before < 1000
    assert found["cpu_seconds"] < 10  # wall time would measure the neighbours too
    assert found["seconds_again"] < 2
