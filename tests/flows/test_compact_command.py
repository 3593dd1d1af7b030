"""``fixpoint compact`` and ``fixpoint gc --compacted`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from tests.chaos import tiny_job
from tests.chaos.tiny_job import Job


def said(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.output


def test_commits_go_into_a_file_and_their_objects_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = str(tmp_path / "out")
    tiny_job.run(Job(output, 4, 2))
    assert "0 commits of 0 rows are in 0 new files; 2 wait for more." in said("compact", output)
    monkeypatch.setattr("tasks.store.compact.compact.__kwdefaults__", {"least": 1, "most": 1024})
    assert json.loads(said("compact", output, "--json")) == {"files": 1, "commits": 2, "rows": 4, "left": 0}
    listed = said("gc", output, "--compacted")
    assert "shards/000001-00000.parquet" in listed
    assert "2 objects found; --delete removes them." in listed
    assert "2 objects removed." in said("gc", output, "--compacted", "--delete")
    assert "0 leftovers found" in said("gc", output)
    assert "undamaged" in said("verify", output)
    assert json.loads(said("status", output, "--json"))["committed"] == 4
    assert "new" not in said("gc", output, "--compacted")


def test_an_output_that_is_none_is_named_plainly(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compact", str(tmp_path)])
    assert done.exit_code != 0
    assert "run.json" in done.output + done.stderr
