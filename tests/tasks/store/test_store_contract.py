"""One contract, every kind of store.

A local folder, memory, moto (answers like AWS), SeaweedFS (a real server), fake-gcs-server; among the long tests Azurite.
"""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.store import errors
from tasks.store.objects import PutOutcome, Store, open_store, read_uri
from tasks.store.retry import RetryPolicy
from tests.cloud_servers import CloudServer
from tests.servers import S3Server

QUICK = RetryPolicy(attempts=5, first_delay=0.01, max_delay=0.05, budget=20, request_timeout=10)
SERVERS = ("moto", "seaweedfs", "gcs")
KINDS = [
    "local",
    "memory",
    *(pytest.param(kind, marks=pytest.mark.server) for kind in SERVERS),
    pytest.param("azurite", marks=pytest.mark.chaos),
]
NAMES = [
    "plain.jpg", "mit Leerzeichen.jpg", "100%.jpg", "a%2Fb.jpg", "ü-日本-🦊.jpg", "a#b?c.jpg", "x+y=z&.jpg",
    "a/b/c/d.jpg",
]  # fmt: skip


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh place on the kind of store the test asks for."""
    kind = request.param
    if kind == "local":
        return str(tmp_path / "a store")
    if kind == "memory":
        return f"memory://{uuid.uuid4().hex}"
    server: S3Server | CloudServer = request.getfixturevalue(kind)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    return server.fresh_url() + "/some prefix"


@pytest.fixture
def store(url: str) -> Store:
    return open_store(url, QUICK)


pytestmark = pytest.mark.parametrize("url", KINDS, indirect=True)


def test_bytes_come_back_as_they_went(store: Store) -> None:
    for name, data in [(name, uuid.uuid4().bytes * 100) for name in NAMES] + [("empty", b"")]:
        store.put(name, data)
        assert store.get(name) == data
        assert read_uri(store.address(name), QUICK) == data
    assert sorted(entry.key for entry in store.list()) == sorted([*NAMES, "empty"])


def test_put_replaces(store: Store) -> None:
    store.put("report.html", b"old")
    store.put("report.html", b"new")
    assert store.get("report.html") == b"new"


def test_a_create_never_replaces(store: Store) -> None:
    assert store.put_new("k", b"first") == PutOutcome(True, b"first")
    assert store.put_new("k", b"second") == PutOutcome(False, b"first")
    assert store.get("k") == b"first"


def test_a_large_create_is_exclusive_too(store: Store) -> None:
    """Above the sizes from which client libraries upload in parts."""
    large = bytes(range(256)) * 50_000
    assert store.put_new("large", large) == PutOutcome(True, large)
    assert not store.put_new("large", large[::-1]).won
    assert store.get("large") == large
    assert store.get_tail("large", 1000) == large[-1000:]


@pytest.mark.parametrize("key", ["race", "another/race"])
def test_sixteen_racing_creates_have_one_winner(store: Store, key: str) -> None:
    start = threading.Barrier(16)

    def create(number: int) -> PutOutcome:
        start.wait()
        return store.put_new(key, b"%d" % number * 1000)

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(create, range(16)))
    assert sum(outcome.won for outcome in outcomes) == 1
    assert {outcome.standing for outcome in outcomes} == {store.get(key)}


def test_listing_is_complete_and_stable(store: Store) -> None:
    keys = [f"p/{i:02d}/{j}" for i in range(4) for j in range(3)] + ["p.txt", "pq/x"]
    for key in keys:
        store.put(key, key.encode())
    listed = [entry.key for entry in store.list()]
    assert sorted(listed) == sorted(keys)
    assert listed == [entry.key for entry in store.list()]
    assert [entry.key for entry in store.list("p/01/")] == ["p/01/0", "p/01/1", "p/01/2"]
    assert [entry.key for entry in store.list("p/0")] == sorted(key for key in keys if key.startswith("p/0"))
    assert list(store.list("nothing/")) == []
    assert {entry.size for entry in store.list("p/")} == {6}


def test_tags_tell_a_changed_object(store: Store) -> None:
    store.put("photo.jpg", b"one")
    (before,) = store.list()
    assert store.stat("photo.jpg") == before
    store.put("photo.jpg", b"two!")
    (after,) = store.list()
    assert (before.size, after.size) == (3, 4)
    assert before.etag != after.etag


def test_tails(store: Store) -> None:
    store.put("k", b"0123456789")
    assert store.get_tail("k", 3) == b"789"
    assert store.get_tail("k", 100) == b"0123456789"
    store.put("empty", b"")
    assert store.get_tail("empty", 3) == b""
    with pytest.raises(errors.NotFound):
        store.get_tail("nope", 3)


def test_absent_objects(store: Store) -> None:
    with pytest.raises(errors.NotFound, match="does not exist"):
        store.get("nope")
    assert not store.exists("nope")
    assert store.stat("nope") is None
    store.delete("nope")
    store.put("there", b"1")
    assert store.exists("there")
    store.delete("there")
    assert not store.exists("there")


def test_the_probe_accepts_an_exclusive_store_and_cleans_up(store: Store) -> None:
    store.probe_exclusive()
    assert list(store.list()) == []


def test_the_probe_refuses_a_store_that_overwrites(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = store._backend
    monkeypatch.setattr(backend, "create", backend.write)
    with pytest.raises(errors.NotExclusive, match="If-None-Match"):
        store.probe_exclusive()


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a\0b", ".."])
def test_keys_that_lead_out_are_refused(store: Store, key: str) -> None:
    for call in (store.put, store.put_new):
        with pytest.raises(errors.InvalidLocation):
            call(key, b"x")
    assert list(store.list()) == []
