"""Everything at once: a real S3 server behind a faulty network, two workers, and a kill every few seconds."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.chaos import tiny_job
from tests.chaos.check_output import check
from tests.chaos.claims import contradictions
from tests.chaos.racing import GAVE_UP, Racers
from tests.chaos.test_chaos_network import PASSING
from tests.chaos.tiny_job import QUICK, Job
from tests.fault_proxy import at_random, run_proxy
from tests.servers import S3Server

pytestmark = pytest.mark.server


def soak(job: Job, seconds_between_kills: float, limit: float) -> tuple[int, int]:
    """Two workers until one of them is done; the kills that landed, and the times a worker gave up cleanly."""
    draw, kills, ends = random.Random(1), 0, 0
    deadline = time.monotonic() + limit
    next_kill = time.monotonic() + seconds_between_kills
    with Racers() as racers:
        workers = [racers.start(job), racers.start(job)]
        while time.monotonic() < deadline:
            time.sleep(0.05)
            if time.monotonic() > next_kill:
                os.kill(draw.choice(workers), signal.SIGKILL)
                next_kill = time.monotonic() + seconds_between_kills * draw.uniform(0.5, 1.5)
            for i, worker in enumerate(workers):
                code = racers.poll(worker)
                if code == 0:
                    os.kill(workers[1 - i], signal.SIGKILL)
                    return kills, ends
                if code is not None:
                    assert code in {-signal.SIGKILL, GAVE_UP}
                    kills += code == -signal.SIGKILL
                    ends += code == GAVE_UP
                    workers[i] = racers.start(job)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
    raise AssertionError(f"not done after {limit} s and {kills} kills")


def run_soak(server: S3Server, folder: Path, photos: int, shard_size: int, every: float, limit: float) -> None:
    job = Job(server.fresh_url(), photos, shard_size, str(folder / "log"))
    started = time.monotonic()
    with run_proxy(server.endpoint, silence=QUICK.request_timeout + 0.3) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        proxy.set(at_random(0.02, 11, PASSING))
        kills, ends = soak(job, every, limit)
        faults, requests = proxy.requests - proxy.faults["none"], proxy.requests
        os.environ["AWS_ENDPOINT_URL"] = server.endpoint  # the judge needs no proxy
        violations = check(job.output, expected_keys=tiny_job.keys(photos)) + contradictions(job)
    print(
        f"\n{photos} photos: {kills} kills, {faults} faults in {requests} requests, {ends} clean ends, "
        f"{time.monotonic() - started:.0f} s, {len(violations)} violations"
    )
    assert violations == []
    assert kills > 0
    assert faults > 0


@pytest.fixture
def server(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in seaweedfs.env.items():
        monkeypatch.setenv(name, value)
    return seaweedfs


def test_a_short_soak(server: S3Server, tmp_path: Path) -> None:
    run_soak(server, tmp_path, photos=480, shard_size=8, every=1.0, limit=200)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_ten_thousand_photos(server: S3Server, tmp_path: Path) -> None:
    run_soak(server, tmp_path, photos=10_000, shard_size=32, every=5.0, limit=3000)


def kill_at_requests(server: S3Server, folder: Path, steps: range) -> int:
    """Workers that die before the n-th request or after its reply; how many kills landed."""
    kills = 0
    with Racers() as racers:
        for n in steps:
            job = Job(server.fresh_url(), 6, 2, str(folder / f"{n}.log"))
            seen: dict[str, str] = {}
            for at in ([n, n], [n, n + 5], [0, 0]):
                codes = racers.race(job, at)
                assert set(codes) <= {0, -signal.SIGKILL}
                kills += codes.count(-signal.SIGKILL)
                keys = tiny_job.keys(6) if at == [0, 0] else None
                assert check(job.output, partial=not keys, seen=seen, expected_keys=keys) == []
                assert contradictions(job) == []
    return kills


def test_kills_at_some_requests_to_s3(server: S3Server, tmp_path: Path) -> None:
    kills = kill_at_requests(server, tmp_path, range(3, 48, 11))
    print(f"\n{kills} kills at requests, 0 violations")
    assert kills >= 10


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_kills_at_every_request_to_s3(server: S3Server, tmp_path: Path) -> None:
    kills = kill_at_requests(server, tmp_path, range(1, 75))
    print(f"\n{kills} kills at requests, 0 violations")
    assert kills >= 100
