"""The embedded Prefect server on machines as they are: a proxy in the environment, two first runs at once, pure JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.embedded import LOOPBACK, keep_server_s_user_apart, reach_loopback_directly
from tests.photographs import write_photos

NOISY = """
import os, subprocess
from flows.cli.terminal import emit, reserve_stdout
reserve_stdout()
print("a library")
os.write(1, b"a library in C")
subprocess.run(["echo", "a server"], check=True)
emit({"name": "ü", "number": 1})
print("a database, at the end")
"""


def test_nothing_but_the_json_reaches_standard_output() -> None:
    done = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"name": "ü", "number": 1}
    for noise in ("a library", "a library in C", "a server", "a database, at the end"):
        assert noise in done.stderr


@pytest.mark.parametrize(
    ("url", "kept", "user"),
    [
        ("http://me:p%40ss@host:4200/api", "http://host:4200/api", "me:p@ss"),
        ("https://host/api", "https://host/api", None),
    ],
)
def test_the_user_before_prefect_s_host_becomes_a_setting_of_its_own(
    monkeypatch: pytest.MonkeyPatch, url: str, kept: str, user: str | None
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "")
    monkeypatch.delenv("PREFECT_API_AUTH_STRING")
    monkeypatch.setenv("PREFECT_API_URL", url)
    keep_server_s_user_apart()
    assert os.environ["PREFECT_API_URL"] == kept
    assert os.environ.get("PREFECT_API_AUTH_STRING") == user


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, set(LOOPBACK)),
        ({"NO_PROXY": "intranet, .corp"}, {"intranet", ".corp", *LOOPBACK}),
        ({"no_proxy": "intranet", "NO_PROXY": "other"}, {"intranet", *LOOPBACK}),
        ({"no_proxy": "localhost"}, set(LOOPBACK)),
        ({"no_proxy": "*"}, {"*"}),
    ],
)
def test_no_proxy_serves_this_machine(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: set[str]
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    reach_loopback_directly()
    assert set(os.environ["NO_PROXY"].split(",")) == set(os.environ["no_proxy"].split(",")) == expected


@pytest.mark.chaos  # two cold starts, each with a server of its own
@pytest.mark.timeout(3000)
def test_two_first_runs_at_once_behind_a_proxy_print_json_and_nothing_else(tmp_path: Path) -> None:
    """A machine whose Prefect has no database yet, and whose proxy answers nothing."""
    write_photos(tmp_path / "in", 1)
    environment = {
        name: value for name, value in os.environ.items() if name.lower() not in ("no_proxy", "prefect_api_url")
    }
    environment |= {
        "PREFECT_HOME": str(tmp_path / "home"),
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "PREFECT_LOGGING_LEVEL": "INFO",  # what it logs must not reach standard output either
    }
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "dehaze", str(tmp_path / "in"), str(tmp_path / f"out{i}"),
             "--method", "dcp", "--no-report", "--json", "--execution", "prefect=true"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )
        for i in range(2)
    ]  # fmt: skip
    for run in runs:
        printed, said = run.communicate(timeout=1400)
        assert run.returncode == 0, said[-3000:]
        assert json.loads(printed)["ok"] == 1
        assert "Traceback" not in said
    assert (tmp_path / "home" / "prefect.db").exists()
