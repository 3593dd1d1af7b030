"""Nights as Prefect shows them, on a real Prefect server and a real S3 server: each state is tonight's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flows.dehaze import dehaze
from flows.execution import Execution
from tasks.config import RunConfig
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tests.flows.test_deployments import artifacts
from tests.photographs import write_photos
from tests.servers import S3Server

DCP = RunConfig(dehaze_variant="dcp", shard_size=2)


@pytest.fixture
def output(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in seaweedfs.env.items():
        monkeypatch.setenv(name, value)
    return seaweedfs.fresh_url()


def night(source: Path, output: str, **execution: Any) -> tuple[Any, dict[str, list[Any]]]:
    """State of the run, and its artifacts by what they show."""
    state = dehaze(str(source), output, DCP, Execution(report=False, **execution), return_state=True)  # type: ignore[call-overload]
    assert isinstance(state.state_details.flow_run_id, UUID)
    return state, artifacts(state.state_details.flow_run_id)


def rows(output: str) -> list[dict[str, Any]]:
    ledger = Ledger(open_store(output))
    columns = ["key", "status", "error_code", "attempt", "run_id", "flow_run_id", "processed_at"]
    return [row for shard in ledger.committed() for row in ledger.read_shard(*shard, columns).to_pylist()]


@pytest.mark.long
def test_each_night_has_the_state_of_its_own_photos_and_a_repaired_one_leaves_failed(
    prefect_api: str, output: str, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    write_photos(source, 4)
    good = next(source.glob("*.png")).read_bytes()
    (source / "broken.jpg").write_bytes(b"no picture")

    first, shown = night(source, output)
    assert first.is_failed()
    assert "1 of the 5 photos of this run failed" in first.message
    assert [row["photo"] for row in json.loads(shown["failed"][0].data)] == ["broken.jpg"]

    second, shown = night(source, output)  # nothing new: the old failure fails no later night
    assert second.is_completed()
    assert "failed" not in shown

    (source / "new.jpg").write_bytes(b"no picture either")
    third, shown = night(source, output)  # its only photo failed, however many old ones are good
    assert third.is_failed()
    assert "1 of the 1 photos of this run failed" in third.message
    assert [row["photo"] for row in json.loads(shown["failed"][0].data)] == ["new.jpg"]

    again, _ = night(source, output, retry_failed="all")  # they are tried again, and fail again
    assert again.is_failed()
    assert sorted(row["attempt"] for row in rows(output) if row["key"] == "broken.jpg") == [1, 2]

    for name in ("broken.jpg", "new.jpg"):
        (source / name).write_bytes(good)
    repaired, shown = night(source, output, current="table")
    assert repaired.is_completed()
    assert "failed" not in shown
    status = Ledger(open_store(output)).status()
    assert (status.photos, status.ok, status.failed) == (6, 6, 0)

    runs = {str(state.state_details.flow_run_id) for state in (first, third, again, repaired)}
    assert {row["flow_run_id"] for row in rows(output)} == runs
    assert all(row["run_id"] and row["processed_at"] for row in rows(output))
    assert open_store(output).stat("current/photos.parquet").size > 0
