"""Whoever is responsible is told: a line a failed photo, a table, metrics, events, a notification."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from prefect import tags
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from flows import figures
from flows.cli.app import app
from flows.dehaze import dehaze
from flows.execution import Execution
from flows.plain import run_here
from tasks.config import RunConfig
from tasks.report.place import browser_address
from tests.flows.test_deployments import artifacts, fixpoint
from tests.photographs import write_photos
from tests.prefect_server import wait_until

ROOT = Path(__file__).parent.parent.parent
DCP = RunConfig(dehaze_variant="dcp", shard_size=2)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A photo and three files that are none."""
    write_photos(tmp_path / "in", 1)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / "in" / name).write_bytes(b"no picture")
    return tmp_path / "in"


def samples(folder: Path) -> dict[str, float]:
    """The metrics of the one output by name; those of failures by error code."""
    (file,) = folder.glob("*.prom")
    families = text_string_to_metric_families(file.read_text())
    return {one.labels.get("code", one.name): one.value for family in families for one in family.samples}


def test_a_run_without_prefect_names_failed_photos_and_writes_metrics(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(figures, "MAX_WARNINGS", 2)
    monkeypatch.setenv("FIXPOINT_METRICS_FOLDER", str(tmp_path))
    execution = Execution(prefect=False, report=False, max_failed_fraction=1)
    with caplog.at_level(logging.WARNING):
        run_here("dehaze", str(source), str(tmp_path / "out"), DCP, execution)
    assert [record.getMessage().partition(")")[0] for record in caplog.records] == [
        "failed: a.jpg (not-an-image", "failed: b.jpg (not-an-image",
        "failed: 1 photos more; rows with status 'failed' name them all",
    ]  # fmt: skip
    first = samples(tmp_path)
    assert first["not-an-image"] == first["fixpoint_run_failed_photos"] == 3
    assert (first["fixpoint_photos"], first["fixpoint_run_photos"], first["fixpoint_run_degraded"]) == (4, 4, 1)
    run_here("dehaze", str(source), str(tmp_path / "out"), DCP, execution)
    idle = samples(tmp_path)
    assert (idle["fixpoint_photos"], idle["fixpoint_run_photos"], idle["fixpoint_run_degraded"]) == (4, 0, 0)
    assert idle["fixpoint_run_ended_timestamp_seconds"] > first["fixpoint_run_ended_timestamp_seconds"]

    dashboard = (ROOT / "deployments" / "grafana-dashboard.json").read_text()
    asked = {name for panel in json.loads(dashboard)["panels"] for target in panel.get("targets", [])
             for name in re.findall(r"fixpoint_\w+", target["expr"])}  # fmt: skip
    rules = yaml.safe_load((ROOT / "deployments" / "prometheus-alerts.yaml").read_text())
    asked |= {
        name
        for group in rules["groups"]
        for rule in group["rules"]
        for name in re.findall(r"fixpoint_\w+", rule["expr"])
    }
    assert asked == set(idle) | {"fixpoint_run_failures"}


def test_a_browser_opens_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    assert browser_address("/data/a b", "report/index.html") is None
    assert browser_address("s3://b/x", "images/") == "https://s3.console.aws.amazon.com/s3/buckets/b?prefix=x/images/"
    assert browser_address("gs://b/x", "r.html") == "https://storage.cloud.google.com/b/x/r.html"
    assert (
        browser_address("s3://b/x", "r.html", "https://photos.example.org/x/") == "https://photos.example.org/x/r.html"
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    assert browser_address("s3://b/x", "images/") is None
    with pytest.raises(ValueError, match="browse is an http"):
        Execution(browse="s3://b/x")


class Inbox(BaseHTTPRequestHandler):
    """Keeps what is posted."""

    received: list[str]

    def do_POST(self) -> None:
        self.received.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def inbox() -> Iterator[tuple[str, list[str]]]:
    """A web hook's address, and what it was sent."""
    received: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), type("Mine", (Inbox,), {"received": received}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", received
    server.shutdown()
    thread.join()
    server.server_close()


def test_prefect_tells_whom_setup_names(
    prefect_api: str, source: Path, tmp_path: Path, inbox: tuple[str, list[str]]
) -> None:
    url, received = inbox
    hook = CustomWebhookNotificationBlock(name="ours", url=url, json_data={"text": "{{body}}"})
    hook.save("night-shift", overwrite=True)
    fixpoint("setup", "--notify", "custom-webhook/night-shift")
    wrong = CliRunner().invoke(app, ["setup", "--notify", "slack-webhook/nobody"])
    assert wrong.exit_code == 2
    assert "no block slack-webhook/nobody" in " ".join(wrong.stderr.split())

    with tags("fixpoint"):
        state = dehaze(str(source), str(tmp_path / "out"), DCP, Execution(report=False), return_state=True)
    assert state.is_failed()
    run = state.state_details.flow_run_id
    assert run is not None
    (failed,) = artifacts(run)["failed"]
    assert failed.description.startswith("Failed photos of this run: 3.")
    rows = json.loads(failed.data)
    assert [(row["photo"], row["code"]) for row in rows] == [(f"{x}.jpg", "not-an-image") for x in "abc"]
    assert rows[0]["source"].endswith("/in/a.jpg")
    wait_until(lambda: received, 60, "the notification")
    assert "4 photos processed, 3 of them failed; in all 1 of 4 are done, 3 failed" in received[0]
    assert len(received) == 1
