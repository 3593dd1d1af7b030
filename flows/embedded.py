"""The Prefect server that a command starts for itself: reached past any proxy, and first started by one process at a time."""

from __future__ import annotations

import os
from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PATIENCE = 300
"""Seconds that a command waits for another one's first start."""


def reach_loopback_directly() -> None:
    """Name this machine among the hosts that no proxy of the environment serves."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    if "*" not in hosts:
        hosts += [host for host in LOOPBACK if host not in hosts]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(hosts)


def start_once() -> None:
    """Start the embedded server, unless PREFECT_API_URL names one; its database is made by one process at a time.

    A new machine has no database. Two servers that make it at once fail with tables that exist already, so the first
    start of each version of Prefect holds a lock.
    """
    import prefect
    from filelock import FileLock
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    if PREFECT_API_URL.value():
        return
    home = Path(PREFECT_HOME.value())
    made = home / f"fixpoint-database-{prefect.__version__}"
    if made.exists():
        return
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "fixpoint-database.lock", timeout=PATIENCE), prefect.get_client(sync_client=True) as client:
        client.hello().raise_for_status()
        made.touch()
