"""The flow ``aggregate`` on a real run: numbers equal DuckDB's, and a second call reads nothing."""

import json
from pathlib import Path

import duckdb
from typer.testing import CliRunner

from flows.aggregate import aggregate
from flows.cli.app import app
from tests.photographs import write_photos


def test_tables_of_a_run_and_nothing_new_the_second_time(tmp_path: Path, prefect_api: str) -> None:
    write_photos(tmp_path / "in", 4)
    out, tables = str(tmp_path / "out"), str(tmp_path / "tables")
    arguments = [
        "dehaze",
        str(tmp_path / "in"),
        out,
        "--method",
        "words-by-place",
        "--steps",
        "4",
        "--no-report",
        "--json",
    ]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    first = aggregate([out], tables)
    images = f"SELECT count(*), sum(nfe) FROM read_parquet('{tables}/images/*/*.parquet')"
    shards = f"SELECT count(*), sum(nfe) FROM read_parquet('{out}/shards/*.parquet')"
    assert duckdb.execute(images).fetchall() == duckdb.execute(shards).fetchall()
    assert first["images_new"] == 4
    steps = duckdb.execute(f"SELECT sum(len(steps)) FROM read_parquet('{out}/shards/*.parquet')").fetchall()[0][0]
    assert first["steps_new"] == steps
    result = CliRunner().invoke(app, ["aggregate", out, "--destination", tables])
    assert json.loads(result.stdout)["images_new"] == 0
