"""Canaries: secrets of every kind, in runs that succeed and runs that are refused, and where they must not come out.

The secret of a presigned address stands in the plan, which reading needs; nowhere else. S3's own keys are tried by
``test_object_storage``, profiles and the hub's token by ``test_secrets_of_profiles``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from tests.canaries import CANARY, DEBUG, SAS, fixpoint, leaks, server
from tests.photographs import write_photos
from tests.servers import free_ports

pytestmark = pytest.mark.model  # processes that load the libraries
SIGNED = {
    "azure": SAS,
    "s3": f"X-Amz-Credential={CANARY}&X-Amz-Signature={CANARY}&X-Amz-Security-Token={CANARY}",
    "google": f"X-Goog-Credential={CANARY}&X-Goog-Signature={CANARY}",
}


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
