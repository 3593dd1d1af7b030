"""Reads from a real S3 server behind a proxy that fails on purpose."""

from __future__ import annotations

import time

import pytest

from tasks.store.errors import AccessDenied, NotFound, StoreUnavailable
from tasks.store.objects import open_store
from tests.chaos.tiny_job import QUICK
from tests.fault_proxy import FAULTS, FaultProxy, nothing
from tests.servers import S3Server

pytestmark = pytest.mark.server


@pytest.mark.parametrize("kind", FAULTS)
def test_a_read_gives_the_right_bytes_or_an_error(proxy: FaultProxy, seaweedfs: S3Server, kind: str) -> None:
    data = bytes(range(256)) * 4000
    store = open_store(seaweedfs.fresh_url(), QUICK)
    store.put("k", data)
    proxy.set(lambda index, method, path: kind if index < 2 else None)
    if kind == "403":
        with pytest.raises(AccessDenied):
            store.get("k")
        return
    assert store.get("k") == data
    assert store.get_tail("k", 1000) == data[-1000:]
    assert [entry.size for entry in store.list()] == [len(data)]


def test_an_outage_ends_within_its_budget(proxy: FaultProxy, seaweedfs: S3Server) -> None:
    store = open_store(seaweedfs.fresh_url(), QUICK)
    proxy.set(lambda index, method, path: "503")
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="15 attempts"):
        store.get("k")
    assert proxy.requests == QUICK.attempts  # one retry layer: no library multiplies it
    assert time.monotonic() - started < 10


def test_an_absent_object_is_absent_at_once(proxy: FaultProxy, seaweedfs: S3Server) -> None:
    store = open_store(seaweedfs.fresh_url(), QUICK)
    proxy.set(nothing)
    with pytest.raises(NotFound):
        store.get("k")
    assert proxy.requests == 1
