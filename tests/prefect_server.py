"""A real Prefect server and real workers on loopback, for tests and the benchmark; each stops with its block."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.servers import free_ports


@contextlib.contextmanager
def run_prefect_server(home: Path) -> Iterator[str]:
    """A server made by ``fixpoint server`` whose database and settings lie in ``home``; its API URL."""
    (port,) = free_ports(1)
    environment = {**os.environ, "PREFECT_HOME": str(home)}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "flows.cli", "server", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/api"
    with background(command, environment, home / "server.log") as process:
        wait_until(lambda: answers(f"{url}/health") or process.poll() is not None, 240, "the Prefect server's answer")
        if process.poll() is not None:
            raise RuntimeError(f"the Prefect server ended:\n{(home / 'server.log').read_text()[-2000:]}")
        yield url


@contextlib.contextmanager
def run_worker(pool: str, name: str, folder: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process worker that takes one flow run at a time, in a process group of its own; logs in ``folder``."""
    # One thread: OpenMP threads of two processes that share the cores wait for each other ten times longer than they work.
    environment = {**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "1", "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", name, "--limit", "1"]
    with background(command, environment, folder / f"{name}.log") as process:
        yield process


@contextlib.contextmanager
def background(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends, with all it started, when the block ends."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes], patience: float = 15) -> None:
    """SIGTERM, and SIGKILL to the whole group for whatever is left."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and all it started, as when a machine is lost."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def answers(url: str) -> bool:
    """Whether something answers at an address."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as reply:
        return bool(reply.status == 200)
    return False


def wait_until(happened: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true answer of ``happened``, asked twice a second."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := happened():
            return answer
        time.sleep(0.5)
    raise TimeoutError(f"waited {seconds:.0f} s for {what}")
