"""Whole runs on a real S3 server, killed at random times."""

import json
import random
import signal
import subprocess
import sys
import time

from typer.testing import CliRunner

from flows.cli.app import app
from tests.chaos.check_output import check
from tests.flows.buckets import objects
from tests.servers import S3Server


def kill_after_commits(bucket: str, server: S3Server, commits: int, delay: float) -> bool:
    """Start the command and SIGKILL it ``delay`` seconds after so many commits; whether it was still running."""
    arguments = ["dehaze", f"{bucket}/photos", f"{bucket}/out", "--shard-size", "1", "--no-report", "--json"]
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while child.poll() is None and len(objects(server, f"{bucket}/out/shards/")) < commits:
        time.sleep(0.05)
    time.sleep(delay)
    running = child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    return running


def finish(bucket: str) -> dict[str, int]:
    """Run to the end; the summary."""
    arguments = ["dehaze", f"{bucket}/photos", f"{bucket}/out", "--shard-size", "1", "--no-report", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def test_runs_killed_at_random_times_end_complete(bucket: str, seaweedfs: S3Server, prefect_api: str) -> None:
    chance, landed = random.Random(1), 0
    for commits in (1, 4):
        landed += kill_after_commits(bucket, seaweedfs, commits, chance.uniform(0, 0.1))
        assert check(f"{bucket}/out", partial=True) == []
    assert landed > 0
    assert finish(bucket)["ok"] == 6
    assert check(f"{bucket}/out") == []
