"""The Prefect UI of a real Prefect server in headless Chromium: a run, its artifacts, the form.

FIXPOINT_SCREENSHOTS=docs/figures pytest -m chaos tests/flows/test_ui.py    also renews the pictures of the documentation
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from PIL import Image
from prefect import get_client

from flows.dehaze import dehaze
from flows.execution import Execution
from tasks.config import RunConfig
from tests.flows.test_deployments import artifacts, fixpoint
from tests.photographs import write_photos

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --force-device-scale-factor=1"
).split()
DOCUMENTATION = Path(os.environ["FIXPOINT_SCREENSHOTS"]).resolve() if "FIXPOINT_SCREENSHOTS" in os.environ else None
pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the path: apt-get install chromium"),
]


def browse(url: str, *options: str, height: int = 900) -> str:
    """Open a page, wait until its scripts have settled; what Chromium printed."""
    with tempfile.TemporaryDirectory() as profile:
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", f"--window-size=1280,{height}"]
        command += ["--virtual-time-budget=20000", "--timeout=60000", *options, url]
        return subprocess.run(command, capture_output=True, text=True, timeout=300).stdout


def see(url: str, name: str, folder: Path, *words: str, height: int = 900) -> None:
    """A page shows the words; its picture goes to ``folder``, and to the documentation if that is asked for."""
    text = browse(url, "--dump-dom", height=height)
    missing = [word for word in words if word not in text]
    picture = folder / f"{name}.png"
    browse(url, f"--screenshot={picture}", height=height)
    assert not missing, f"{url} does not show {missing}, see {picture}"
    with Image.open(picture) as image:
        assert len(image.convert("L").getcolors(256) or range(256)) > 20, "the page is empty"
        if DOCUMENTATION is not None:
            image.convert("RGB").quantize(64).save(DOCUMENTATION / f"{name}.png", optimize=True)


def test_run_artifacts_and_form_are_what_an_operator_needs(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pages = prefect_api.removesuffix("/api") + "/v2"
    write_photos(tmp_path / "photos", 8)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    fixpoint("setup")
    fixpoint("deploy", "--source", "s3://photos/incoming", "--output", "s3://photos/dehazed")
    config = RunConfig(batch_size=2, shard_size=2)
    state = dehaze("photos", "dehazed", config, Execution(max_failed_fraction=0.5), return_state=True)
    assert state.is_completed()
    run = state.state_details.flow_run_id
    assert run is not None
    found = artifacts(run)
    see(f"{pages}/runs/flow-run/{run}", "ui-run", tmp_path, "dehaze", "Completed", "shard 000001-00000")
    see(f"{pages}/artifacts/artifact/{found['shards'][0].id}", "ui-shards", tmp_path, "model_loads", "5 shards by 1")
    see(f"{pages}/artifacts/artifact/{found['before-after'][0].id}", "ui-before-after", tmp_path, "before and after")
    see(f"{pages}/artifacts/artifact/{found['failed'][0].id}", "ui-failed", tmp_path, "not-an-image", height=600)
    see(f"{pages}/artifacts/artifact/{found['report'][0].id}", "ui-report", tmp_path, "photos")
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("dehaze/nightly").id
    see(f"{pages}/deployments/deployment/{deployment}/run", "ui-form", tmp_path,
        "folder, glob, s3:// prefix", "Num Inference Steps", "DDIM steps", "Runner", height=2000)  # fmt: skip
