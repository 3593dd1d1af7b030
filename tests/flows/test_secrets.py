"""Canaries: secrets of every kind, in runs that succeed and runs that are refused, and where they must not come out.

The secret of a presigned address stands in the plan, which reading needs; nowhere else. S3's own keys are tried by
``test_object_storage``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from tests.photographs import write_photos
from tests.servers import free_ports

pytestmark = pytest.mark.model  # processes that load the libraries
CANARY = "CANARY0123456789abcdef"
DEBUG = {"PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG"}
SAS = f"sv=2024-11-04&se=2027-01-01T00%3A00%3A00Z&sr=b&sp=r&sig={CANARY}%3D"
SIGNED = {
    "azure": SAS,
    "s3": f"X-Amz-Credential={CANARY}&X-Amz-Signature={CANARY}&X-Amz-Security-Token={CANARY}",
    "google": f"X-Goog-Credential={CANARY}&X-Goog-Signature={CANARY}",
}


@contextmanager
def server(photo: bytes) -> Iterator[str]:
    """A site that has one photo, refuses others with the whole address in its answer, or sends them on."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = next((code for code in (403, 404, 302) if str(code) in self.path.partition("?")[0]), 200)
            body = photo if status == 200 else f"<Error>{self.path}, {dict(self.headers)}</Error>".encode()
            self.send_response(status, f"no {self.path}" if status != 200 else None)
            if status == 302:
                self.send_header("Location", f"http://169.254.169.254/latest?{SAS}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Be quiet."""

    site = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=site.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{site.server_port}"
    finally:
        site.shutdown()
        site.server_close()


def fixpoint(*arguments: str, **variables: str) -> tuple[int, str]:
    """Run the command in a process of its own: exit code, and everything it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "400", **variables}
    line = [sys.executable, "-m", "flows.cli", *arguments]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def leaks(folder: Path) -> list[str]:
    """Files below a folder that hold the canary, as text or in a column."""
    import pyarrow.parquet as pq

    found = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        rows = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else []
        if CANARY.encode() in path.read_bytes() or CANARY in repr(rows):
            found.append(str(path.relative_to(folder)))
    return found


def test_the_signature_of_an_address_stands_in_the_plan_and_nowhere_else(tmp_path: Path) -> None:
    (name,) = write_photos(tmp_path / "in", 1)
    (dead,) = free_ports(1)
    with server((tmp_path / "in" / name).read_bytes()) as site:
        hosts = [site] * 4 + [f"http://127.0.0.1:{dead}"]
        paths = ["good.png", "403.png", "404.png", "302.png", "dead.png"]
        urls = [f"{host}/{path}?{sig}" for sig in SIGNED.values() for host, path in zip(hosts, paths, strict=True)]
        (tmp_path / "list.jsonl").write_text("\n".join(json.dumps({"url": url}) for url in urls))
        code, said = fixpoint(
            "dehaze", str(tmp_path / "list.jsonl"), str(tmp_path / "out"), "--method", "dcp", "--verbose", "--allow-http",
            "--allow-root", f"{site}/", "--allow-root", f"http://127.0.0.1:{dead}/", "--max-failed", "1",
        )  # fmt: skip
    assert code == 0, said
    assert "15 photos processed, 12 of them failed" in said
    assert leaks(tmp_path / "out") == ["plans/000001.parquet"]
    assert CANARY not in said


@pytest.mark.parametrize("kind", SIGNED)
def test_a_signed_source_is_refused_and_not_shown(tmp_path: Path, kind: str) -> None:
    result = CliRunner().invoke(app, ["dehaze", f"https://h/a.png?{SIGNED[kind]}", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "SOURCE carries a signature" in " ".join(result.output.split())
    assert CANARY not in result.output


CONFIGURATIONS = {
    "a broken file": f"[profile p]\naws_secret_access_key {CANARY}\n= {CANARY}",
    "an expired session": "[profile p]\nsso_start_url = https://x.example/start\nsso_region = eu-west-1\n"
    "sso_account_id = 1\nsso_role_name = r\n",
    "a process that fails": f"[profile p]\ncredential_process = sh -c 'echo token={CANARY} >&2; exit 1'\n",
    "a process that prints nonsense": f"[profile p]\ncredential_process = echo {CANARY}\n",
    "a process that prints something else": f"[profile p]\ncredential_process = echo '[\"{CANARY}\"]'\n",
    "half of a key": f"[profile p]\naws_secret_access_key = {CANARY}\n",
    "another profile": f"[profile q]\naws_access_key_id = {CANARY}\naws_secret_access_key = {CANARY}\n",
    "a role": f"[profile p]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = z\naws_secret_access_key = {CANARY}\n",
}


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_profiles_that_give_no_credentials(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config").write_text(CONFIGURATIONS[kind])
    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    expired = {"accessToken": CANARY, "expiresAt": "2020-01-01T00:00:00Z", "startUrl": "https://x.example/start"}
    (cache / "e8be5486177c5b5392bd9aa76563515b29358e6e.json").write_text(json.dumps(expired))
    variables = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_PROFILE": "p", "HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }  # fmt: skip
    code, said = fixpoint("status", "s3://bucket/out", **variables)
    assert code == 2, said
    assert "check the credentials" in said
    assert ("the profile's setting credential_process" in " ".join(said.split())) == ("process" in kind)
    assert CANARY not in said
    assert "Traceback" not in said


def test_the_hub_s_token(tmp_path: Path) -> None:
    """A hub that refuses, and answers with what it was asked."""
    with server(b"") as site:
        variables = {
            "HF_TOKEN": f"hf_{CANARY}",
            "HF_ENDPOINT": f"{site}/403",
            "HF_HOME": str(tmp_path),
            "HF_DEBUG": "1",
        }
        write_photos(tmp_path / "in", 1)
        line = ["dehaze", str(tmp_path / "in"), str(tmp_path / "out"), "--method", "regenerate"]
        line += ["--model", "owner/name", "--verbose"]
        code, said = fixpoint(*line, **variables)
    assert code == 2, said
    assert "cannot fetch owner/name" in said
    assert "HF_TOKEN" in said, "names the fix"
    assert CANARY not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("answer", ["none", "403"])
def test_prefect_s_key_and_the_user_before_its_host(tmp_path: Path, answer: str) -> None:
    """A server that is not there, and one that refuses and answers with what it was asked."""
    write_photos(tmp_path / "in", 1)
    with server(b"") as site:
        host = "127.0.0.1:9" if answer == "none" else site.removeprefix("http://")
        variables = {
            "PREFECT_API_URL": f"http://operator:{CANARY}@{host}/403/api", "PREFECT_API_KEY": f"pnu_{CANARY}",
            "PREFECT_API_AUTH_STRING": f"admin:{CANARY}", "PREFECT_HOME": str(tmp_path / "prefect"),
            "PREFECT_CLIENT_MAX_RETRIES": "0", **DEBUG,
        }  # fmt: skip
        line = ["dehaze", str(tmp_path / "in"), str(tmp_path / "out"), "--method", "dcp", "--verbose"]
        code, said = fixpoint(*line, **variables)
    assert code == 2, said
    assert "the Prefect server at http://127.0.0.1" in said
    assert "Traceback" not in said
    assert CANARY not in said
    assert leaks(tmp_path) == []


@pytest.mark.server
def test_a_run_with_every_secret_set_records_none(tmp_path: Path, prefect_api: str) -> None:
    write_photos(tmp_path / "in", 2)
    variables = {
        "PREFECT_API_URL": prefect_api.replace("://", f"://operator:{CANARY}@"), "PREFECT_API_KEY": f"pnu_{CANARY}",
        "HF_TOKEN": f"hf_{CANARY}", "AZURE_STORAGE_SAS_TOKEN": SAS, "AZURE_STORAGE_CONNECTION_STRING": f"AccountKey={CANARY}",
        **DEBUG,
    }  # fmt: skip
    line = ["dehaze", str(tmp_path / "in"), str(tmp_path / "out"), "--method", "dcp", "--verbose"]
    code, said = fixpoint(*line, **variables)
    assert code == 0, said
    assert CANARY not in said
    assert leaks(tmp_path) == []
    databases = [path for path in Path(os.environ["PREFECT_HOME"]).rglob("*.db*") if path.is_file()]
    assert databases
    assert not [str(path) for path in databases if CANARY.encode() in path.read_bytes()]
