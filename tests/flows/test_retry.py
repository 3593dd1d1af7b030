"""Failed is a state one can leave: ``fixpoint retry``, and ``--retry-failed`` of the operations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tasks.store.verify import verify
from tests.photographs import write_photos

DEHAZE = ["--method", "dcp", "--no-report", "--json", "--execution", "prefect=false"]
RETRY = ["--execution", "report=false"]


def fixpoint(*arguments: object) -> tuple[int, dict[str, Any], str]:
    """Run the command: exit code, its JSON where it printed one, what it said."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    return result.exit_code, json.loads(lines[-1]) if lines else {}, " ".join(result.stderr.split())


def rows(output: Path) -> list[dict[str, Any]]:
    """Every committed row."""
    return [row for path in sorted((output / "shards").glob("*")) for row in pq.read_table(path).to_pylist()]


def problems(output: Path) -> list[object]:
    """What ``verify`` finds."""
    return list(verify(Ledger(open_store(str(output)))))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Five photos, of which two have failed: one is damaged, one had gone between plan and work."""
    names = sorted(write_photos(tmp_path / "in", 5))
    (tmp_path / "whole").mkdir()
    damaged, gone = (tmp_path / "in" / name for name in names[:2])
    (tmp_path / "whole" / damaged.name).write_bytes(damaged.read_bytes())
    damaged.write_bytes(damaged.read_bytes()[:-2000])
    plan_all(tmp_path)
    gone.rename(tmp_path / "whole" / gone.name)
    assert fixpoint("dehaze", tmp_path / "in", tmp_path / "out", *DEHAZE)[0] == 4
    return tmp_path / "out"


def plan_all(folder: Path) -> None:
    """Plan the photos of ``folder``/in, as a run does that is killed then."""
    from tasks import steps
    from tasks.config import RunConfig

    steps.plan(str(folder / "in"), str(folder / "out"), RunConfig(dehaze_variant="dcp"))


def bring_back(output: Path) -> None:
    """The photos as they were: one is whole again, one is there again."""
    for photo in (output.parent / "whole").iterdir():
        os.rename(photo, output.parent / "in" / photo.name)


def test_every_failed_photo_is_tried_again_and_its_history_kept(output: Path) -> None:
    bring_back(output)
    code, told, _ = fixpoint("retry", output, "--json", *RETRY)
    assert (code, told["processed"], told["processed_failed"], told["ok"], told["failed"]) == (0, 2, 0, 5, 0)
    attempts = sorted((row["attempt"], row["status"]) for row in rows(output))
    assert attempts == [(1, "failed")] * 2 + [(1, "ok")] * 3 + [(2, "ok")] * 2
    assert problems(output) == []
    assert len(list((output / "images").iterdir())) == 5
    code, told, _ = fixpoint("dehaze", output.parent / "in", output, *DEHAZE)
    assert (code, told["processed"], told["ok"]) == (0, 0, 5)  # the next night does none of them again


def test_codes_say_which(output: Path) -> None:
    failed = {row["error_code"] for row in rows(output) if row["status"] == "failed"}
    assert failed == {"truncated", "unreadable"}
    bring_back(output)
    code, told, _ = fixpoint("retry", output, "--json", "--code", "unreadable", *RETRY)
    assert (code, told["processed"], told["ok"], told["failed"]) == (0, 1, 4, 1)
    code, _, said = fixpoint("retry", output, "--code", "video", *RETRY)
    assert code == 0
    assert "Nothing new; in all 4 of 5 are done, 1 failed." in said
    code, _, said = fixpoint("retry", output, "--code", "unlucky", *RETRY)
    assert code == 2
    assert "unlucky is no error code: choose among all, animated, damaged" in said


def test_photos_that_fail_again_are_not_called_done(output: Path) -> None:
    for attempt in (2, 3, 4, 5):  # asked for, there is no limit
        code, _, said = fixpoint("retry", output, *RETRY)
        assert code == 4
        assert "2 of the 2 photos of this run failed" in said
        assert max(row["attempt"] for row in rows(output)) == attempt
    bring_back(output)
    code, _, said = fixpoint("retry", output, *RETRY)
    assert code == 0
    assert "in all 5 of 5 are done, 0 failed" in said
    assert "all 5 photos are done" in fixpoint("retry", output, *RETRY)[2]


def test_an_operation_takes_failed_photos_up_with_what_is_new(output: Path) -> None:
    source = output.parent / "in"
    whole, back = sorted((output.parent / "whole").iterdir())
    back.rename(source / back.name)
    code, told, _ = fixpoint("dehaze", source, output, *DEHAZE, "--retry-failed", "truncated")
    assert code == 4  # damaged as before
    by_key = {row["key"]: row for row in rows(output) if row["attempt"] == 2}
    assert {key: row["status"] for key, row in by_key.items()} == {whole.name: "failed", back.name: "ok"}
    code, told, _ = fixpoint("dehaze", source, output, *DEHAZE)
    assert (code, told["processed"], told["failed"]) == (0, 0, 1)  # unasked, a damaged file is left alone
    code, _, said = fixpoint("dehaze", source, output, *DEHAZE, "--retry-failed", "unlucky")
    assert code == 2
    assert "retry_failed" in said


def test_a_retry_that_was_killed_after_its_plan_is_finished(output: Path) -> None:
    from tasks.store.error_codes import RetryRule

    bring_back(output)
    assert Ledger(open_store(str(output))).plan_retries(RetryRule(asked=None), 64) == [2]
    code, told, _ = fixpoint("retry", output, "--json", *RETRY)
    assert (code, told["processed"], told["ok"], told["open_shards"]) == (0, 2, 5, 0)
    assert sorted(row["attempt"] for row in rows(output)) == [1] * 5 + [2] * 2


def test_retry_needs_an_output_and_keeps_its_settings(output: Path, tmp_path: Path) -> None:
    code, _, said = fixpoint("retry", tmp_path / "nothing here")
    assert code == 2
    assert "run.json" in said
    code, _, said = fixpoint("retry", output, "--set", "strength=0.5", *RETRY)
    assert code == 2
    assert "strength: there 1.0, here 0.5" in said
    assert Ledger(open_store(str(output))).plans() == [1]
