"""Servers that tests of several folders share; each starts once, when a test first asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cloud_servers import CloudServer, run_azurite, run_gcs
from tests.prefect_server import run_prefect_server
from tests.servers import S3Server, run_moto, run_seaweedfs

torch.set_num_threads(1)  # small tensors gain nothing from threads, and servers and children need the other core


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


@pytest.fixture(scope="session")
def gcs() -> Iterator[CloudServer]:
    """An imitation of Google Cloud Storage that keeps its preconditions."""
    with run_gcs() as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudServer]:
    """Microsoft's emulator of Azure Blob Storage."""
    with run_azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server of this test session's own; its API URL, also in the environment of child processes."""
    home = tmp_path_factory.mktemp("prefect")
    os.environ.update(PREFECT_HOME=str(home), PREFECT_LOGGING_LEVEL="CRITICAL")
    with run_prefect_server(home) as url:
        from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

        os.environ["PREFECT_API_URL"] = url
        with temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: str(home)}):
            yield url
        del os.environ["PREFECT_API_URL"]
