"""Objects that do not belong into an output, in each of its folders: named by every command that looks, in its way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from tasks.store import parquet
from tasks.store.schema import FOOTER_KEY
from tests.photographs import write_photos

pytestmark = pytest.mark.model  # loads what the report needs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of three photos in two shards, with a report."""
    folder = tmp_path_factory.mktemp("strays")
    write_photos(folder / "in", 3)
    line = ["dehaze", str(folder / "in"), str(folder / "out"), "--method", "dcp", "--shard-size", "2"]
    assert CliRunner().invoke(app, [*line, "--execution", "prefect=false"]).exit_code == 0
    return folder / "out"


@pytest.fixture
def output(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "out")
    return tmp_path / "out"


def newer() -> bytes:
    """A Parquet object of a schema version to come."""
    footer = json.dumps({"schema_version": 99, "rows": 1, "shards": 1}).encode()
    table = pa.table({"key": ["a"]}).replace_schema_metadata({FOOTER_KEY: footer})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def nonsense() -> bytes:
    """Parquet with our own marks and digest, and a footer of nonsense."""
    strange: dict[str, Any] = {"rows": "many", "shards": None, "failures": 7, "totals": [], "plans": {}, "planned": "x"}
    return parquet.encode(pa.table({"a": [1]}), strange)


KINDS = {"empty": b"", "garbage": b"PAR1 and nothing more", "json": b"{}", "newer": newer(), "nonsense": nonsense()}
NAMES = ("plans/000002.parquet", "shards/000001-00000.parquet", "shards/000001-00001.parquet", "shards/000009-00000.parquet",
         "checkpoints/000001-00000009.parquet")  # fmt: skip


def fixpoint(*arguments: object) -> tuple[int, str]:
    """Exit code and everything that was said, on one line."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join((result.stdout + result.stderr).split())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_object_that_cannot_be_read_is_named_and_the_others_counted(output: Path, name: str, kind: str) -> None:
    (output / name).parent.mkdir(exist_ok=True)
    (output / name).write_bytes(KINDS[kind])
    code, said = fixpoint("verify", output)
    assert code == 3
    assert name in said
    code, said = fixpoint("status", output)
    planned = not name.startswith(("checkpoints", "shards/000009"))  # the others are named by verify alone
    assert code == (3 if planned else 0)
    assert ("Left out:" in said and Path(name).name in said) == planned
    code, said = fixpoint("aggregate", output, "--destination", output.parent / "tables")
    assert code == 0
    shards_read = json.loads(said[: said.index("}") + 1])["shards_new"]
    assert shards_read == (1 if name.startswith("shards/000001") else 2)
    if name.startswith("shards"):
        assert Path(name).name in said


def test_a_report_names_what_it_leaves_out(output: Path) -> None:
    (output / "shards/000001-00000.parquet").write_bytes(newer())
    for number, kind in enumerate(KINDS):
        (output / f"shards/000009-{number:05d}.parquet").write_bytes(KINDS[kind])
    code, said = fixpoint("report", output)
    assert code == 0
    bad = [f"000009-{number:05d}.parquet" for number in range(len(KINDS))] + ["000001-00000.parquet"]
    page = (output / "report/index.html").read_text()
    assert "6 objects left out" in page
    assert "6 objects left out" in (output / "report/report.md").read_text()
    assert len(json.loads((output / "report/report.json").read_text())["unreadable"]) == 6
    assert [name for name in bad if name not in said or name not in page] == []


NAMED = ("plans/notes.txt", "plans/1.parquet", "shards/000001-00000 (copy).parquet", "shards/deeper/000001-00000.parquet",
         "checkpoints/notes.txt")  # fmt: skip
ELSEWHERE = ("images/mine.jpg", "report/mine.txt", "README.txt", "tables/_manifest/notes.json")


def test_foreign_names_disturb_nobody(output: Path) -> None:
    for name in (*NAMED, *ELSEWHERE):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(b"what somebody put here")
    code, said = fixpoint("verify", output)
    assert code == 3
    assert {name for name in (*NAMED, *ELSEWHERE) if name in said} == set(NAMED)
    assert fixpoint("status", output)[0] == 0
    assert fixpoint("report", output)[0] == 0
    assert fixpoint("aggregate", output, "--destination", output / "tables")[0] == 0
    listed = fixpoint("gc", output)[1]
    assert [name for name in (*NAMED, *ELSEWHERE) if name in listed] == ["images/mine.jpg"]


@pytest.mark.parametrize("content", [b"", b"{}", b"PAR1", b"[" * 100_000, b'{"schema_version": 99, "sha256": "0"}'])
def test_a_run_json_that_is_none(output: Path, content: bytes) -> None:
    (output / "run.json").write_bytes(content)
    assert "run.json" in fixpoint("verify", output)[1]
    code, said = fixpoint("status", output)
    assert code == 3
    assert "run.json" in said
    assert fixpoint("aggregate", output, "--destination", output.parent / "tables")[0] == 0
    code, said = fixpoint("dehaze", output.parent / "in", output, "--method", "dcp")
    assert code == 2
    assert "run.json" in said
