"""A real S3 server behind a proxy that fails on purpose: the n-th request in every way, and any request at random."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tasks.store.errors import AccessDenied, StoreUnavailable
from tasks.store.objects import Store
from tests.chaos import mutants, tiny_job
from tests.chaos.check_output import check
from tests.chaos.claims import contradictions
from tests.chaos.tiny_job import Job
from tests.fault_proxy import FAULTS, FaultProxy, at_random, at_request, nothing, stale
from tests.servers import S3Server

pytestmark = pytest.mark.server

PASSING = tuple(fault for fault in FAULTS if fault != "403")
"""What goes away by itself. 403 does not: it must end the run at once and cleanly."""


def new_job(seaweedfs: S3Server, folder: Path, photos: int, shard_size: int) -> Job:
    url = seaweedfs.fresh_url()
    return Job(url, photos, shard_size, str(folder / f"{url.rpartition('/')[2]}.log"))


def judge(job: Job, proxy: FaultProxy) -> list[str]:
    """Violations at the end of a run nobody killed."""
    proxy.set(nothing)
    return check(job.output, expected_keys=tiny_job.keys(job.photos)) + contradictions(job, all_claimed=True)


def run_until_done(job: Job, runs: int = 3) -> int:
    """Run again after a clean failure; how many runs it took. Any other exception is a bug."""
    for count in range(1, runs + 1):
        try:
            tiny_job.run(job)
        except (AccessDenied, StoreUnavailable):
            continue
        else:
            return count
    raise AssertionError(f"not done after {runs} runs")


def requests_of_a_run(proxy: FaultProxy, job: Job) -> int:
    proxy.set(nothing)
    tiny_job.run(job)
    return proxy.requests


def fail_each_request(proxy: FaultProxy, seaweedfs: S3Server, folder: Path, kinds: list[list[str]]) -> int:
    """One run for every request and each of its kinds of fault (``kinds`` is cycled through); how many runs."""
    cases = 0
    for index in range(requests_of_a_run(proxy, new_job(seaweedfs, folder, 3, 3))):
        for kind in kinds[index % len(kinds)]:
            job = new_job(seaweedfs, folder, 3, 3)
            proxy.set(at_request(index, kind))
            runs = run_until_done(job)
            assert proxy.faults[kind] == 1, f"{kind} at request {index} did not happen"
            assert runs == (2 if kind == "403" else 1), f"{kind} at request {index}"
            assert judge(job, proxy) == [], f"{kind} at request {index}"
            cases += 1
    return cases


def test_any_request_may_fail_in_some_way(proxy: FaultProxy, seaweedfs: S3Server, tmp_path: Path) -> None:
    """Every request fails in one way; each way occurs at least once."""
    cases = fail_each_request(proxy, seaweedfs, tmp_path, [[kind] for kind in FAULTS])
    print(f"\n{cases} cases, 0 violations")
    assert cases >= len(FAULTS)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_every_request_may_fail_in_every_way(proxy: FaultProxy, seaweedfs: S3Server, tmp_path: Path) -> None:
    cases = fail_each_request(proxy, seaweedfs, tmp_path, [list(FAULTS)])
    print(f"\n{cases} cases, 0 violations")
    assert cases >= 150


def faulty_run(proxy: FaultProxy, job: Job, undisturbed: int, rate: float, seed: int) -> float:
    """A run at a fault rate; its requests as a multiple of those of an undisturbed run."""
    proxy.set(at_random(rate, seed, PASSING))
    started = time.monotonic()
    runs = run_until_done(job, runs=1 if rate <= 0.05 else 3)
    ratio, faults = proxy.requests / undisturbed, proxy.requests - proxy.faults["none"]
    print(
        f"\np = {rate:.0%}: {job.photos // 2} shards, {runs} runs, {faults} faults in {proxy.requests} requests "
        f"({ratio:.2f} of undisturbed), {time.monotonic() - started:.0f} s"
    )
    assert faults > 0
    assert judge(job, proxy) == []
    return ratio


@pytest.mark.parametrize(("rate", "limit"), [(0.05, 1.5), (0.2, 3.0)])
def test_faults_at_random(proxy: FaultProxy, seaweedfs: S3Server, tmp_path: Path, rate: float, limit: float) -> None:
    undisturbed = requests_of_a_run(proxy, new_job(seaweedfs, tmp_path, 30, 2))
    assert faulty_run(proxy, new_job(seaweedfs, tmp_path, 30, 2), undisturbed, rate, seed=5) <= limit


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("rate", "limit"), [(0.01, 1.5), (0.05, 1.5), (0.2, 3.0)])
def test_faults_at_random_over_200_shards(
    proxy: FaultProxy, seaweedfs: S3Server, tmp_path: Path, rate: float, limit: float
) -> None:
    undisturbed = requests_of_a_run(proxy, new_job(seaweedfs, tmp_path, 400, 2))
    for seed in range(5):
        assert faulty_run(proxy, new_job(seaweedfs, tmp_path, 400, 2), undisturbed, rate, seed) <= limit


def test_refusals_at_random_end_cleanly_and_resume(proxy: FaultProxy, seaweedfs: S3Server, tmp_path: Path) -> None:
    job = new_job(seaweedfs, tmp_path, 16, 2)
    proxy.set(at_random(0.08, 3, ("403",)))
    runs = run_until_done(job, runs=40)
    assert runs > 1
    assert judge(job, proxy) == []


def test_a_store_that_forgets_to_read_back_is_found_out(
    proxy: FaultProxy, seaweedfs: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "probe_exclusive", lambda self: None)
    monkeypatch.setattr(Store, "put_new", mutants.trust_the_reply)
    job = new_job(seaweedfs, tmp_path, 8, 1)
    met: set[str] = set()

    def lose_the_first_reply(index: int, method: str, path: str) -> str | None:
        if method != "PUT" or "/shards/" not in path or path in met:
            return None
        met.add(path)
        return "lost-reply"

    proxy.set(lose_the_first_reply)
    tiny_job.run(job)
    assert any("nobody knows" in violation for violation in judge(job, proxy))


@pytest.mark.parametrize("photos", [6, 9])
def test_listings_of_before_the_first_run_give_no_photo_two_rows(
    proxy: FaultProxy, seaweedfs: S3Server, tmp_path: Path, photos: int
) -> None:
    """A second run whose store lists nothing of the first, nor of its own; the third sees what there is, and ends it."""
    first = new_job(seaweedfs, tmp_path, 6, 3)
    proxy.set(nothing)
    tiny_job.run(first)
    second = Job(first.output, photos, 3, first.log)
    proxy.set(stale)
    tiny_job.run(second)
    assert proxy.faults["stale"] > 2
    assert check(second.output, partial=True) == []
    proxy.set(nothing)
    tiny_job.run(second)
    assert judge(second, proxy) == []
