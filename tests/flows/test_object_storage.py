"""Whole runs on a real S3 server: results and secrets."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from tests.chaos.check_output import check
from tests.flows.buckets import objects
from tests.servers import S3Server


def test_bucket_to_bucket_leaves_no_trace_of_the_credentials(
    bucket: str, seaweedfs: S3Server, prefect_api: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Canary: the secret key occurs in no object, no log line at debug level and nowhere in Prefect's database."""
    log = tmp_path / "debug.log"
    with log.open("w") as stream:
        environment = {**os.environ, "PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG"}
        arguments = ["dehaze", f"{bucket}/photos", f"{bucket}/out", "--verbose", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments], env=environment, stdout=stream, stderr=stream
        )
    assert done.returncode == 0, log.read_text()[-3000:]
    assert check(f"{bucket}/out") == []
    assert CliRunner().invoke(app, ["verify", f"{bucket}/out"]).exit_code == 0
    written = {key: data for key, data in objects(seaweedfs, bucket).items() if "/out/" in key}
    assert sum("/images/" in key for key in written) == 6
    assert any(key.endswith("report/index.html") for key in written)
    secret = seaweedfs.secret_key.encode()
    assert not [key for key, data in written.items() if secret in data]
    assert secret not in log.read_bytes()
    database = list(Path(os.environ["PREFECT_HOME"]).rglob("*.db*")) + list(tmp_path.rglob("*.db*"))
    assert not [str(p) for p in database if secret in p.read_bytes()]
    assert not [r for r in caplog.records if seaweedfs.secret_key in r.getMessage() and r.levelno >= logging.DEBUG]


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"])
def test_a_run_that_is_refused_shows_no_credentials(bucket: str, prefect_api: str, tmp_path: Path, name: str) -> None:
    """Canary: a wrong key is in no message, in no log at debug level and nowhere in Prefect's database."""
    canary = "CANARY0123456789ABCDEF"
    environment = {**os.environ, name: canary, "PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG"}
    line = [sys.executable, "-m", "flows.cli", "dehaze", f"{bucket}/photos", f"{bucket}/refused", "--verbose", "--json"]
    done = subprocess.run(line, env=environment, capture_output=True, timeout=240)
    assert done.returncode == 2, done.stderr.decode()[-3000:]
    assert b"check the credentials" in done.stderr, "the message names the fix"
    assert b"DEBUG" in done.stderr or b"INFO" in done.stderr, "the libraries' own logs were on"
    assert canary.encode() not in done.stdout + done.stderr
    database = list(Path(os.environ["PREFECT_HOME"]).rglob("*.db*"))
    assert database
    assert not [str(p) for p in database if canary.encode() in p.read_bytes()]
