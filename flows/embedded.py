"""The Prefect server that a command starts for itself: reached past any proxy, and first started by one process at a time."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

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


def keep_server_s_user_apart() -> None:
    """Take user and password out of PREFECT_API_URL, which Prefect and its HTTP client log, into PREFECT_API_AUTH_STRING."""
    parts = urlsplit(os.environ.get("PREFECT_API_URL", ""))
    user, at, host = parts.netloc.rpartition("@")
    if at:
        os.environ["PREFECT_API_URL"] = urlunsplit(parts._replace(netloc=host))
        os.environ["PREFECT_API_AUTH_STRING"] = unquote(user)


def start_once() -> None:
    """Start the embedded server, or see that the one answers that PREFECT_API_URL names.

    The database of an embedded server is made by one process at a time. Raises ValueError if a named one does not answer.

    A new machine has no database. Two servers that make it at once fail with tables that exist already, so the first
    start of each version of Prefect holds a lock.
    """
    import prefect
    from filelock import FileLock
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    if url := PREFECT_API_URL.value():
        _require_answer(url)
        return
    home = Path(PREFECT_HOME.value())
    made = home / f"fixpoint-database-{prefect.__version__}"
    if made.exists():
        return
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "fixpoint-database.lock", timeout=PATIENCE), prefect.get_client(sync_client=True) as client:
        client.hello().raise_for_status()
        made.touch()


def _require_answer(url: str) -> None:
    import prefect

    from tasks.store.uris import show

    with prefect.get_client(sync_client=True) as client:
        if (problem := client.api_healthcheck()) is not None:
            raise ValueError(
                f"the Prefect server at {show(url)} does not answer ({type(problem).__name__}): start it, correct "
                "PREFECT_API_URL and PREFECT_API_KEY, or run without it by --execution prefect=false"
            ) from None
