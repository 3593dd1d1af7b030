"""Nights on one output: each is judged by its own photos; a failed photo is never called done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from tests.photographs import write_photos

LINE = ["--method", "dcp", "--no-report", "--execution", "prefect=false"]


def night(source: Path, output: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    """Run the command: exit code, its JSON where asked for, what it said."""
    result = CliRunner().invoke(app, ["dehaze", str(source), str(output), *LINE, *more])
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    return result.exit_code, json.loads(lines[-1]) if lines else {}, " ".join(result.stderr.split())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Five photos and a file that is none."""
    write_photos(tmp_path / "in", 5)
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no picture")
    return tmp_path / "in"


def test_old_failures_do_not_fail_a_night_and_new_ones_do(source: Path, tmp_path: Path) -> None:
    code, _, said = night(source, tmp_path / "out")
    assert code == 4
    assert "1 of the 6 photos of this run failed" in said
    code, told, _ = night(source, tmp_path / "out", "--json")
    assert (code, told["processed"], told["photos"], told["ok"], told["failed"]) == (0, 0, 6, 5, 1)
    code, _, said = night(source, tmp_path / "out")
    assert code == 0
    assert "5 of 6 are done, 1 failed" in said
    assert "all 6 photos" not in said
    assert "report/index.html" not in said
    assert "report/index.html" not in night(source, tmp_path / "out", "--report")[2]  # there is none
    (source / "also broken.jpg").write_bytes(b"no picture either")
    code, _, said = night(source, tmp_path / "out")
    assert code == 4  # the night's only new photo failed, however many old ones are good
    assert "1 of the 1 photos of this run failed" in said


def test_a_repaired_photo_makes_the_output_whole(source: Path, tmp_path: Path) -> None:
    night(source, tmp_path / "out")
    (source / "broken.jpg").write_bytes(next(source.glob("*.png")).read_bytes())
    code, told, _ = night(source, tmp_path / "out", "--json")
    assert (code, told["processed"], told["processed_failed"], told["ok"], told["failed"]) == (0, 1, 0, 6, 0)
    assert "all 6 photos are done" in night(source, tmp_path / "out")[2]
    rows = [row for path in (tmp_path / "out/shards").glob("*") for row in pq.read_table(path).to_pylist()]
    assert len({row["run_id"] for row in rows}) == 2
    assert all(row["run_id"] and row["processed_at"] and row["attempt"] == 1 for row in rows)


def test_what_is_current_is_kept_by_runs_also_by_those_with_nothing_new(source: Path, tmp_path: Path) -> None:
    night(source, tmp_path / "out", "--execution", "current=pictures")
    table = tmp_path / "out/current/photos.parquet"
    names = sorted(path.name for path in source.glob("*.png"))
    assert pq.read_table(table)["key"].to_pylist() == names
    (source / names[0]).unlink()
    assert night(source, tmp_path / "out", "--execution", "current=pictures")[0] == 0
    gone = {row["key"] for row in pq.read_table(table).to_pylist() if row["gone_at"]}
    assert gone == {names[0]}
    assert sorted(path.name for path in (tmp_path / "out/current/images").iterdir()) == names[1:]
    done = CliRunner().invoke(app, ["current", str(tmp_path / "out"), "--source", str(source)])
    assert "5 photos are current, 1 of them gone" in " ".join(done.stderr.split())
