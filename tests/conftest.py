"""Servers that tests of several folders share; each starts once, when a test first asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import S3Server, run_moto, run_seaweedfs


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with authentication: ``endpoint``, ``env`` for processes that use it, ``make_bucket``."""
    with run_seaweedfs(Path(tmp_path_factory.mktemp("seaweedfs"))) as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """An imitation of S3 that answers as AWS does."""
    with run_moto() as server:
        yield server
