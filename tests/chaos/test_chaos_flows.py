"""kill -9 to whole flow runs, as a user starts them: command line, Prefect, a real S3 server.

They dehaze by the dark channel prior: what a kill may break does not depend on the model, and a run takes a second.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests.chaos.check_output import check
from tests.photographs import write_photos
from tests.servers import S3Server

pytestmark = pytest.mark.server

KILLS, PHOTOS = 60, 10
START_UP, WORK = 4.0, 3.0
"""Seconds within which a kill falls, from the start of a run or from its first write."""


@pytest.fixture
def context(
    prefect_api: str, seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> multiprocessing.context.BaseContext:
    """Processes that begin with everything imported: the kills shall fall into the work, not into imports."""
    for name, value in seaweedfs.env.items():
        monkeypatch.setenv(name, value)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flows.cli.app", "tasks.shard.process"])
    return context


def fixpoint(arguments: list[str]) -> None:
    """The command, in a child."""
    from flows.cli.app import app

    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        app(arguments)


def upload(server: S3Server, folder: Path, url: str) -> list[str]:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    keys = write_photos(folder, PHOTOS)
    for key in keys:
        server.client().put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=(folder / key).read_bytes())
    return keys


def count_objects(server: S3Server, url: str) -> int:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return int(server.client().list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["KeyCount"])


def kill(child: ForkServerProcess, server: S3Server, output: str, draw: random.Random) -> int | None:
    """SIGKILL at a random time: one in four during start-up, the others after the run's first write; the exit code."""
    if draw.random() < 0.25:
        child.join(draw.uniform(0, START_UP))
    else:
        before = count_objects(server, output)
        while child.is_alive() and count_objects(server, output) == before:
            time.sleep(0.02)
        child.join(draw.uniform(0, WORK))
    child.kill()
    child.join()
    return child.exitcode


def runs_until_done(
    context: multiprocessing.context.BaseContext, server: S3Server, source: str, output: str, draw: random.Random
) -> Iterator[int | None]:
    """Exit codes of the runs on one output, each killed, until one gets to its end; judged after each."""
    options = ["--set", "dehaze_variant=dcp", "--shard-size", "1", "--no-report", "--json"]
    seen: dict[str, str] = {}
    while True:
        child = context.Process(target=fixpoint, args=(["dehaze", source, output, *options],))
        child.start()
        code = kill(child, server, output, draw)
        assert code in {0, -signal.SIGKILL}
        assert check(output, partial=code != 0, seen=seen) == []
        yield code
        if code == 0:
            return


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_whole_runs_killed_at_random(
    context: multiprocessing.context.BaseContext, seaweedfs: S3Server, tmp_path: Path
) -> None:
    url, draw, codes, outputs = seaweedfs.fresh_url(), random.Random(3), [], 0
    started = time.monotonic()
    keys = upload(seaweedfs, tmp_path, f"{url}/photos")
    while codes.count(-signal.SIGKILL) < KILLS:
        output = f"{url}/out-{outputs}"
        codes += runs_until_done(context, seaweedfs, f"{url}/photos", output, draw)
        assert check(output, expected_keys=keys) == []
        outputs += 1
    print(
        f"\n{codes.count(-signal.SIGKILL)} runs killed, {outputs} outputs of {PHOTOS} photos completed, "
        f"{time.monotonic() - started:.0f} s, 0 violations"
    )
