"""A run in a folder that is killed, and the same command again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from typer.testing import CliRunner

from flows.cli.app import app
from tests.chaos.check_output import check
from tests.photographs import write_photos


def test_killed_half_way_the_same_command_completes_it(tmp_path: Path, prefect_api: str) -> None:
    """SIGKILL after the first commit; the next run finishes, every photo exactly once."""
    keys = write_photos(tmp_path / "in", 12)
    out = tmp_path / "out"
    arguments = ["dehaze", str(tmp_path / "in"), str(out), "--shard-size", "1", "--json"]
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments], env=os.environ.copy(), stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while not list(out.glob("shards/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    committed = {p: p.read_bytes() for p in out.glob("shards/*.parquet")}
    assert 0 < len(committed) < 12
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert all(p.read_bytes() == data for p, data in committed.items())
    assert summary["processed"] == 12 - len(committed)
    assert check(str(out), expected_keys=keys) == []
