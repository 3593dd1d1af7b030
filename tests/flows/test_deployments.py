"""Deployments on a real Prefect server: made from prefect.yaml, scheduled, picked up, cancelled, resumed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterName
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelling
from typer.testing import CliRunner

from flows.cli.app import app
from tests.chaos.check_output import check
from tests.photographs import write_photos
from tests.prefect_server import background, run_worker, wait_until
from tests.servers import S3Server

PHOTOS = 8
pytestmark = pytest.mark.timeout(1800)  # seconds on a quiet machine; start-ups take long on a busy one


def upload(server: S3Server, folder: Path, photos: int) -> tuple[str, list[str]]:
    """A fresh bucket prefix with photos under ``photos/``, and their keys."""
    url = server.fresh_url()
    name, _, prefix = url.removeprefix("s3://").partition("/")
    keys = write_photos(folder, photos)
    for key in keys:
        server.client().put_object(Bucket=name, Key=f"{prefix}/photos/{key}", Body=(folder / key).read_bytes())
    return url, keys


def commits(server: S3Server, output: str) -> int:
    """Shards committed under an output."""
    name, _, prefix = output.removeprefix("s3://").partition("/")
    return server.client().list_objects_v2(Bucket=name, Prefix=f"{prefix}/shards/")["KeyCount"]


def fixpoint(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "flows.cli", *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def state_of(run: UUID) -> str:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run).state_name or ""


def artifacts(run: UUID) -> dict[str, list[Any]]:
    """Artifacts of a flow run by what they show: the key without the output's name."""
    found: dict[str, list[Any]] = {}
    with get_client(sync_client=True) as client:
        chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        for artifact in client.read_artifacts(artifact_filter=chosen):
            name = re.sub(r"^.*-[0-9a-f]{8}-", "", artifact.key or "")
            found.setdefault(name, []).append(artifact)
    return found


@pytest.fixture(scope="module")
def deployed(
    seaweedfs: S3Server, prefect_api: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, list[str]]]:
    """A bucket with photos and a nightly deployment on it, every minute being a night."""
    for name, value in seaweedfs.env.items():
        os.environ[name] = value
    url, keys = upload(seaweedfs, tmp_path_factory.mktemp("photos"), PHOTOS)
    fixpoint("setup", "--gpus", "2")
    settings = ["--method", "words-by-place", "--steps", "4", "--batch-size", "1", "--shard-size", "1"]
    fixpoint("deploy", "--source", f"{url}/photos", "--output", f"{url}/out", "--cron", "* * * * *", *settings)
    yield url, keys
    for name in seaweedfs.env:
        os.environ.pop(name, None)


def test_every_flow_of_prefect_yaml_is_deployed(deployed: tuple[str, list[str]]) -> None:
    with get_client(sync_client=True) as client:
        found = {name: client.read_deployment_by_name(name) for name in (
            "dehaze/nightly", "edit/on-demand", "invert/on-demand", "restore/on-demand",
            "evaluate/on-demand", "aggregate/on-demand", "shards/gpu"
        )}  # fmt: skip
        assert client.read_work_pool("fixpoint-gpu").concurrency_limit == 2
        assert client.read_global_concurrency_limit_by_name("fixpoint-gpu").limit == 4
        assert client.read_automations_by_name("fixpoint: runs that missed their heartbeats are crashed")
    assert [s.schedule.cron for s in found["dehaze/nightly"].schedules] == ["* * * * *"]
    assert found["shards/gpu"].work_pool_name == "fixpoint-gpu"
    assert found["dehaze/nightly"].enforce_parameter_schema


def test_setup_again_changes_what_is_asked_and_nothing_else(deployed: tuple[str, list[str]]) -> None:
    fixpoint("setup", "--gpus", "2", "--slots", "3")
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name("fixpoint-gpu").limit == 3
        assert len(client.read_automations_by_name("fixpoint: runs that missed their heartbeats are crashed")) == 1


def test_the_form_says_what_everything_means_and_wrong_values_are_refused(deployed: tuple[str, list[str]]) -> None:
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("dehaze/nightly")
        schema = deployment.parameter_openapi_schema
        groups = schema["properties"]["config"]["properties"]
        assert [group["title"] for group in sorted(groups.values(), key=lambda group: group["position"])] == [
            "Dehazing", "Inversion", "Output", "Model and device", "Advanced"
        ]  # fmt: skip
        fields = {name: field for group in groups.values() for name, field in group["properties"].items()}
        assert not fields.keys() & {"tokens", "cross_replace", "task", "scale", "operation"}
        fields |= schema["definitions"]["Execution"]["properties"]
        assert all(field.get("description") for field in [*fields.values(), *schema["properties"].values()])
        assert fields["runner"]["enum"] == ["thread", "process", "ray", "work-pool"]
        assert (fields["num_inference_steps"]["minimum"], fields["batch_size"]["default"]) == (1, 0)
        wrong_ones = ({"inversion": {"num_inference_steps": 0}}, {"inversion": {"method": "magic"}}, {"colour": "blue"})
        for wrong in wrong_ones:
            with pytest.raises(PrefectHTTPStatusError, match=r"409|422"):
                client.create_flow_run_from_deployment(deployment.id, parameters={"config": wrong})


def test_pools_that_exist_are_respected(prefect_api: str) -> None:
    """Another type is refused; what an operator changed is kept and shown, by --dry-run without any change."""
    line = ["setup", "--type", "kubernetes", "--pool", "ours", "--gpu-pool", "ours-gpu"]
    fixpoint(*line)
    refused = CliRunner().invoke(app, ["setup", "--type", "process", "--pool", "ours"])
    assert refused.exit_code == 2
    assert "there is a work pool ours of type kubernetes" in " ".join(refused.stderr.split())

    with get_client(sync_client=True) as client:
        template = client.read_work_pool("ours-gpu").base_job_template
        template["variables"]["properties"]["namespace"]["default"] = "photographs"
        del template["variables"]["properties"]["shm_size"]["default"]  # as an earlier version may have had it
        client.update_work_pool("ours-gpu", WorkPoolUpdate(base_job_template=template, concurrency_limit=7))

        def properties() -> dict[str, Any]:
            return client.read_work_pool("ours-gpu").base_job_template["variables"]["properties"]

        told = CliRunner().invoke(app, [*line, "--dry-run"]).stderr
        assert re.search(r'^- +"default": "default",$', told, re.MULTILINE)
        assert re.search(r'^\+ +"default": "photographs",$', told, re.MULTILINE)
        assert client.read_work_pool("ours-gpu").concurrency_limit == 7
        assert CliRunner().invoke(app, line).exit_code == 0
        assert (properties()["namespace"]["default"], properties()["shm_size"]["default"]) == ("photographs", "2Gi")
        assert client.read_work_pool("ours-gpu").concurrency_limit == 1
        assert CliRunner().invoke(app, [*line, "--reset-templates"]).exit_code == 0
        assert properties()["namespace"]["default"] == "default"


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_pools_of_containers_take_the_image_and_ask_for_a_gpu(prefect_api: str, kind: str) -> None:
    fixpoint("setup", "--type", kind, "--gpus", "4", "--pool", kind, "--gpu-pool", f"{kind}-gpu")
    with get_client(sync_client=True) as client:
        pool = client.read_work_pool(f"{kind}-gpu")
        assert (pool.type, pool.concurrency_limit) == (kind, 4)
        assert "image" in pool.base_job_template["variables"]["properties"]
        assert ("nvidia.com/gpu" in str(pool.base_job_template)) == (kind == "kubernetes")


@pytest.mark.parametrize("name", ["edit/on-demand", "invert/on-demand", "evaluate/on-demand", "aggregate/on-demand"])
def test_every_other_form_says_what_its_fields_mean_too(deployed: tuple[str, list[str]], name: str) -> None:
    with get_client(sync_client=True) as client:
        properties = client.read_deployment_by_name(name).parameter_openapi_schema["properties"]
    assert properties
    assert all(field.get("description") for field in properties.values())


@pytest.mark.chaos
def test_the_schedule_runs_it_a_cancelled_run_is_resumed_and_every_photo_is_there_once(
    deployed: tuple[str, list[str]], seaweedfs: S3Server, tmp_path: Path
) -> None:
    """Picked up by a process worker when cron says so; cancelled after a commit; the next run does the rest."""
    url, keys = deployed
    with run_worker("fixpoint", "nightly", tmp_path), get_client(sync_client=True) as client:
        wait_until(lambda: commits(seaweedfs, f"{url}/out"), 600, "the first commit of the scheduled run")
        chosen = FlowRunFilter(name=FlowRunFilterName(like_="dehaze s3://"))
        first = next(run for run in client.read_flow_runs(flow_run_filter=chosen) if run.state_name == "Running")
        assert first.auto_scheduled
        deployment = client.read_deployment_by_name("dehaze/nightly")
        for schedule in deployment.schedules:
            client._client.patch(f"/deployments/{deployment.id}/schedules/{schedule.id}", json={"active": False})
        client.set_flow_run_state(first.id, Cancelling())
        wait_until(lambda: state_of(first.id) == "Cancelled", 120, "the cancellation")
        before = commits(seaweedfs, f"{url}/out")
        assert 0 < before < PHOTOS
        seen: dict[str, str] = {}
        assert check(f"{url}/out", partial=True, seen=seen) == []
        failures = wait_until(lambda: artifacts(first.id).get("failures"), 60, "the summary of the cancelled run")
        assert f"{PHOTOS - before} of {PHOTOS} shards are open" in failures[0].data

        second = client.create_flow_run_from_deployment(deployment.id).id
        wait_until(lambda: state_of(second) in ("Completed", "Failed", "Crashed"), 600, "the second run")
    assert state_of(second) == "Completed", (tmp_path / "nightly.log").read_text()[-3000:]
    assert check(f"{url}/out", seen=seen, expected_keys=keys) == []
    shown = artifacts(second)
    assert {"progress", "shards", "report", "before-after", "output"} <= set(shown)
    assert shown["progress"][0].data == 100
    assert f"{PHOTOS - before} of {PHOTOS - before} photos" in shown["progress"][0].description
    assert "1 model loads" in shown["shards"][0].description
    assert "](data:image/jpeg;base64," in shown["before-after"][0].data
    everything = repr([a.data for group in shown.values() for a in group])
    assert seaweedfs.secret_key not in everything


@pytest.mark.chaos
def test_a_run_whose_process_was_killed_leaves_what_is_left_to_do(
    deployed: tuple[str, list[str]], seaweedfs: S3Server, tmp_path: Path
) -> None:
    """SIGKILL to the flow run alone: it can say nothing, its worker calls the hook for crashes."""
    url, keys = deployed
    output = f"{url}/killed"
    with run_worker("fixpoint", "lonely", tmp_path) as worker, get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("dehaze/nightly").id
        run = client.create_flow_run_from_deployment(deployment, parameters={"output": output}).id
        wait_until(lambda: commits(seaweedfs, output), 400, "the first commit")
        (engine,) = (p for p in psutil.Process(worker.pid).children(recursive=True) if "prefect.engine" in p.cmdline())
        engine.kill()
        failures = wait_until(lambda: artifacts(run).get("failures"), 120, "the summary of the killed run")
        assert state_of(run) == "Crashed"
    assert f"of {len(keys)} shards are open" in failures[0].data
    assert len(failures) == 1


@pytest.mark.chaos
def test_one_process_serves_the_schedule_and_the_runs(prefect_api: str, tmp_path: Path) -> None:
    """``fixpoint serve``: no worker, no pool; cron starts a run in it, and the form's deployment is there."""
    keys = write_photos(tmp_path / "in", 2)
    out = tmp_path / "out"
    line = [sys.executable, "-m", "flows.cli", "serve", "--source", str(tmp_path / "in"), "--output", str(out)]
    line += ["--cron", "* * * * *", "--set", "num_inference_steps=4"]
    with background(line, dict(os.environ), tmp_path / "serve.log"), get_client(sync_client=True) as client:
        wait_until(lambda: (out / "report" / "index.html").exists(), 400, "the report of the scheduled run")
        assert client.read_deployment_by_name("dehaze/served").parameters["source"] == str(tmp_path / "in")
        assert client.read_deployment_by_name("edit/served").tags == ["fixpoint", "served"]
    assert check(str(out), expected_keys=keys) == []
