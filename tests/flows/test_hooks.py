"""A run that fails leaves a summary of what failed and why."""

from __future__ import annotations

import functools
import inspect
import re
import signal
import subprocess
import sys
from pathlib import Path

from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

from flows.dehaze import dehaze
from flows.hooks import HOOKS
from tasks.config import RunConfig
from tests.flows.test_deployments import artifacts
from tests.photographs import write_photos
from tests.prefect_server import wait_until


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


def test_an_interrupted_run_is_cancelled_and_says_what_is_left(prefect_api: str, tmp_path: Path) -> None:
    """Ctrl-C in the terminal of a run that Prefect has."""
    write_photos(tmp_path / "in", 60)
    line = [sys.executable, "-m", "flows.cli", "dehaze", str(tmp_path / "in"), str(tmp_path / "out")]
    line += ["--method", "dcp", "--shard-size", "1", "--no-report"]
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    run = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    wait_until(lambda: list(tmp_path.glob("out/shards/*.parquet")) or run.poll() is not None, 240, "the first commit")
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=120)[1]
    assert (run.returncode, "Stopped. The same command goes on" in said) == (3, True), said
    with get_client(sync_client=True) as client:
        chosen = FlowRunFilter(name=FlowRunFilterName(like_=str(tmp_path / "out")))
        (found,) = client.read_flow_runs(flow_run_filter=chosen)
    assert found.state_name == "Cancelled"
    (failures,) = artifacts(found.id)["failures"]
    assert re.search(r"\d+ of 60 shards are open", failures.data)


def test_workers_call_hooks_by_keyword() -> None:
    """Prefect's engine passes them by position, its workers as flow, flow_run and state."""
    assert set(HOOKS) == {"on_failure", "on_crashed", "on_cancellation"}
    for hooks in HOOKS.values():
        for hook in hooks:
            assert list(inspect.signature(hook).parameters) == ["flow", "flow_run", "state"]
