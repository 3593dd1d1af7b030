"""What the stores of Google and Microsoft do beyond the contract: refusals, faults, whole runs."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from tasks.store import errors
from tasks.store.objects import open_store
from tasks.store.retry import RetryPolicy
from tests.chaos import tiny_job
from tests.chaos.check_output import check
from tests.chaos.claims import contradictions
from tests.chaos.racing import Racers
from tests.chaos.tiny_job import Job
from tests.cloud_servers import CloudServer, run_overwriting_gcs
from tests.fault_proxy import FAULTS, at_random, run_proxy
from tests.tasks.store.test_store_contract import QUICK

PASSING = tuple(fault for fault in FAULTS if fault != "403")
PATIENT = RetryPolicy(attempts=15, first_delay=0.01, max_delay=0.1, budget=60, request_timeout=1.5)


def use(server: CloudServer, monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    for name, value in {**server.env, **changes}.items():
        monkeypatch.setenv(name, value)


def judge(url: str, folder: Path, photos: int) -> list[str]:
    """Violations in a copy of an output; the judge reads folders."""
    scheme = url.split("://", 1)[0]
    fs = fsspec.filesystem(scheme, skip_instance_cache=True)
    fs.get(url.split("://", 1)[1] + "/", str(folder) + "/", recursive=True)
    return check(str(folder), expected_keys=tiny_job.keys(photos))


@pytest.mark.server
def test_a_store_that_takes_creates_for_writes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with run_overwriting_gcs() as server:
        use(server, monkeypatch)
        url = server.fresh_url()
        store = open_store(url, QUICK)
        with pytest.raises(errors.NotExclusive, match="lets a second create overwrite the first"):
            tiny_job.run(Job(url, 4, 2))
        assert list(store.list()) == []


def race(server: CloudServer, folder: Path) -> list[str]:
    job = Job(server.fresh_url(), 40, 4, str(folder / "log"))
    with Racers() as racers:
        assert racers.race(job, [0, 0]) == [0, 0]
    return judge(job.output, folder / "copy", 40) + contradictions(job, all_claimed=True)


def test_two_racing_runs_on_google(gcs: CloudServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(gcs, monkeypatch)
    assert race(gcs, tmp_path) == []


@pytest.mark.chaos
def test_two_racing_runs_on_azure(azurite: CloudServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(azurite, monkeypatch)
    assert race(azurite, tmp_path) == []


def test_faults_at_random_on_google(gcs: CloudServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with run_proxy(gcs.endpoint, silence=PATIENT.request_timeout + 0.3) as proxy:
        use(gcs, monkeypatch, STORAGE_EMULATOR_HOST=proxy.endpoint)
        proxy.set(at_random(0.05, 4, PASSING))
        job = Job(gcs.fresh_url(), 30, 2, str(tmp_path / "log"))
        tiny_job.run(job, policy=PATIENT)
        faults = proxy.requests - proxy.faults["none"]
        print(f"\n{faults} faults in {proxy.requests} requests")
    use(gcs, monkeypatch)
    assert judge(job.output, tmp_path / "copy", 30) + contradictions(job, all_claimed=True) == []
    assert faults >= 3


@pytest.mark.parametrize("kind", ["503", "reset-after", "timeout", "truncated", "truncated-chunked", "slow"])
def test_a_read_from_google_gives_the_right_bytes(gcs: CloudServer, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    data = bytes(range(256)) * 4000
    with run_proxy(gcs.endpoint, silence=PATIENT.request_timeout + 0.3) as proxy:
        use(gcs, monkeypatch, STORAGE_EMULATOR_HOST=proxy.endpoint)
        store = open_store(gcs.fresh_url(), PATIENT)
        store.put("k", data)
        proxy.set(lambda index, method, path: kind if index in {0, 2, 3} else None)  # the look-up, then the read
        assert store.get("k") == data
        assert store.get_tail("k", 1000) == data[-1000:]


@pytest.mark.parametrize("kind", ["503", "reset-after", "timeout", "truncated"])
def test_a_listing_of_google_is_tried_again_folder_by_folder(
    gcs: CloudServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with run_proxy(gcs.endpoint, silence=PATIENT.request_timeout + 0.3) as proxy:
        use(gcs, monkeypatch, STORAGE_EMULATOR_HOST=proxy.endpoint)
        store = open_store(gcs.fresh_url(), PATIENT)
        for key in ("a/1", "b/2"):
            store.put(key, b"x")
        proxy.set(lambda index, method, path: kind if index % 2 == 0 else None)
        assert [entry.key for entry in store.list()] == ["a/1", "b/2"]
        assert proxy.faults[kind] >= 3  # the root and both folders


def test_wrong_credentials_of_azure_are_named_but_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountKey=canary-secret")
    with pytest.raises(errors.StoreError, match="AZURE_STORAGE_CONNECTION_STRING") as caught:
        open_store("az://ready/p", QUICK).get("k")
    assert "canary" not in str(caught.value)


def test_missing_credentials_of_azure_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    with pytest.raises(errors.AccessDenied, match="environment"):
        open_store("az://ready/p", QUICK).get("k")
