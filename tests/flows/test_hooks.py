"""A run that fails leaves a summary of what failed and why."""

from __future__ import annotations

import inspect
from pathlib import Path

from flows.dehaze import dehaze
from flows.hooks import HOOKS
from tasks.config import RunConfig
from tests.flows.test_deployments import artifacts
from tests.photographs import write_photos


def test_a_failed_run_says_which_photos_failed_and_why(prefect_api: str, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 1)
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no picture")
    config = RunConfig(dehaze_variant="dcp")
    state = dehaze(str(tmp_path / "in"), str(tmp_path / "out"), config, return_state=True)
    assert state.is_failed()
    run = state.state_details.flow_run_id
    assert run is not None
    (failures,) = artifacts(run)["failures"]
    assert "1 of 2 photos are done, 1 failed" in failures.data
    assert "broken.jpg" in failures.data


def test_workers_call_hooks_by_keyword() -> None:
    """Prefect's engine passes them by position, its workers as flow, flow_run and state."""
    assert set(HOOKS) == {"on_failure", "on_crashed", "on_cancellation"}
    for hooks in HOOKS.values():
        for hook in hooks:
            assert list(inspect.signature(hook).parameters) == ["flow", "flow_run", "state"]
