"""Canaries in AWS's profiles and in the hub's token: commands that are refused, and show neither."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.canaries import CANARY, fixpoint, server
from tests.photographs import write_photos

pytestmark = pytest.mark.model  # processes that load the libraries
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
