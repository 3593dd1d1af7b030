"""What the fault tests share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.tiny_job import QUICK
from tests.fault_proxy import FaultProxy, run_proxy
from tests.servers import S3Server


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: SIGKILL does not care, and a disk's flushes take most of the time."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def proxy(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with run_proxy(seaweedfs.endpoint, silence=QUICK.request_timeout + 0.3) as proxy:
        for name, value in {**seaweedfs.env, "AWS_ENDPOINT_URL": proxy.endpoint}.items():
            monkeypatch.setenv(name, value)
        yield proxy
