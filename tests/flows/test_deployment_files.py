"""The files of deployments/, as far as they can be judged without Docker and Kubernetes."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from prefect.utilities.importtools import import_object
from prefect.utilities.templating import apply_values, find_placeholders
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.server import server_environment
from flows.provision import filled_deployments, job_template

ROOT = Path(__file__).parent.parent.parent
DEPLOYMENTS = ROOT / "deployments"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text()))


def prefects_own(kind: str) -> dict[str, Any]:
    """The base job template that Prefect ships for a kind of worker."""
    collections = json.loads(
        files("prefect").joinpath("server/api/collections_data/views/aggregate-worker-metadata.json").read_text()
    )
    return dict(collections[f"prefect-{kind}"][kind]["default_base_job_configuration"])


def test_every_entrypoint_is_a_flow_that_takes_the_parameters() -> None:
    document = yaml.safe_load((DEPLOYMENTS / "prefect.yaml").read_text())
    for deployment in document["deployments"]:
        flow = import_object(deployment["entrypoint"])
        assert set(deployment.get("parameters", {})) <= set(flow.parameters.properties)
    names = [(d["entrypoint"], d["name"]) for d in document["deployments"]]
    assert len(set(names)) == len(names) == 7


def test_settings_are_put_into_the_nightly_run_and_wrong_ones_refused() -> None:
    content = (DEPLOYMENTS / "prefect.yaml").read_text()
    filled = yaml.safe_load(filled_deployments(content, {"seed": 7}, {"runner": "work-pool", "workers": 8}, "img:1"))
    nightly = filled["deployments"][0]["parameters"]
    assert nightly["config"] == {"advanced": {"seed": 7}}
    assert nightly["execution"] == {"runner": "work-pool", "workers": 8}
    assert all(d["work_pool"]["job_variables"] == {"image": "img:1"} for d in filled["deployments"])
    with pytest.raises(ValueError, match="seeed"):
        filled_deployments(content, {"seeed": 7}, {}, None)


def options(command: str) -> set[str]:
    """The options of a command as they are typed."""
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    return {name for parameter in found.params for name in parameter.opts if name.startswith("-")}


def test_every_operation_takes_what_concerns_any_run() -> None:
    common = {"--set", "--execution", "--max-failed", "--retry-failed", "--allow-http", "--allow-root", "--json"}
    for name in ("dehaze", "edit", "invert", "restore"):
        assert common <= options(name), name


def test_serve_and_deploy_take_every_option_that_dehaze_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = options("dehaze") - {"--json", "--verbose", "-v"}
    assert len(wanted) > 20
    assert wanted - options("serve") == wanted - options("deploy") == set()

    served: list[Any] = []
    monkeypatch.setattr("prefect.serve", lambda *deployments, limit: served.extend(deployments))
    line = ["serve", "--source", "in", "--output", "out", "--method", "dcp", "--no-report", "--retry-failed", "all"]
    done = CliRunner().invoke(app, [*line, "--max-failed", "0.2", "--set", "quality=80", "--cron", "0 2 * * *"])
    assert done.exit_code == 0, done.output
    assert served[0].parameters == {
        "source": "in", "output": "out", "config": {"dehazing": {"dehaze_variant": "dcp"}, "pictures": {"quality": 80}},
        "execution": {"report": False, "retry_failed": "all", "max_failed_fraction": 0.2},
    }  # fmt: skip
    assert {deployment.flow_name for deployment in served} == {"dehaze", "edit", "invert", "restore", "aggregate"}
    assert CliRunner().invoke(app, [*line, "--steps", "0"]).exit_code == 2
    refused = CliRunner().invoke(app, [*line, "--set", "tokens=replace"])
    assert refused.exit_code == 2
    assert "tokens: no setting of dehaze" in " ".join(refused.stderr.split())


@pytest.mark.parametrize("gpu", [False, True])
def test_the_job_is_one_that_kubernetes_takes(gpu: bool) -> None:
    """Filled in with its defaults, and with an operator's values: by Kubernetes' own schemas, unknown fields refused."""
    template = job_template("kubernetes", gpu=gpu)
    known, own = template["variables"]["properties"], prefects_own("kubernetes")
    assert set(own["variables"]["properties"]) <= set(known)
    assert set(own["job_configuration"]) == set(template["job_configuration"])
    assert {p.name for p in find_placeholders(template["job_configuration"])} <= set(known)
    defaults = {name: field["default"] for name, field in known.items() if "default" in field}
    given = {"image": "registry/fixpoint:0.1.0", "name": "run", "namespace": "photos", "labels": {"a": "b"},
             "env": [{"name": "A", "value": "b"}], "command": ["prefect", "flow-run", "execute"]}  # fmt: skip
    claim = {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}
    chosen = {
        "cpu_limit": "8",
        "node_selector": {"gpu": "h200"},
        "service_account_name": "runs",
        "models_volume": claim,
    }
    for more in ({}, chosen):
        job = apply_values(template["job_configuration"], defaults | given | more)["job_manifest"]
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
        pod = job["spec"]["template"]["spec"]
        container = pod["containers"][0]
        assert container["resources"]["limits"].get("nvidia.com/gpu") == (1 if gpu else None)
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/models", "/dev/shm"}
        assert not any(mount.get("readOnly") for mount in container["volumeMounts"])
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert (pod["restartPolicy"], job["spec"]["backoffLimit"]) == ("Never", 0)
    assert pod["nodeSelector"] == {"gpu": "h200"}


def test_compose_pins_images_keeps_secrets_out_and_listens_on_this_machine_only(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {"postgres", "redis", "server", "services", "worker", "gpu-worker", "s3"} <= set(services)
    for name, service in services.items():
        assert re.search(r":\d[\w.-]*(@sha256:[0-9a-f]{64})?$", service["image"]), f"{name}: image without a version"
        assert set(service.get("depends_on", {})) <= set(services)
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))
        secrets = [v for k, v in service.get("environment", {}).items() if re.search("PASSWORD|SECRET|_KEY", k)]
        assert all(str(value).startswith("${") for value in secrets)
    needed = set(re.findall(r"\$\{(\w+)", (DEPLOYMENTS / "compose.yaml").read_text()))
    assert needed == set(re.findall(r"^(\w+)=", (DEPLOYMENTS / "example.env").read_text(), re.MULTILINE))


def test_the_images_are_pinned_do_not_run_as_root_and_leave_weights_out() -> None:
    text = (DEPLOYMENTS / "Dockerfile").read_text()
    lines = text.splitlines()
    assert re.search(r"^ARG BASE=python:\d+\.\d+\.\d+-\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    stages = {part.split()[2]: part for part in text.split("\nFROM ")[1:]}
    assert set(stages) == {"base", "server", "worker"}
    assert all("USER 10001" in stages[name] and "HEALTHCHECK" in stages[name] for name in ("server", "worker"))
    assert "torch" not in stages["server"] + stages["base"]
    assert stages["worker"].index("-r requirements.txt") < stages["worker"].index("COPY fpcore")
    assert all(
        "-c constraints.txt" in line or "--no-deps" in line or "torch" in line
        for line in lines
        if "pip install" in line
    )
    copied = " ".join(line for line in lines if line.startswith("COPY"))
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert all(package.rstrip("*") in copied for package in packages)
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sent >= {name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()}


OWN = ("fixpoint:", "fixpoint-server:", "fixpoint-ray:", "registry/")
"""Images that are built from these files, or named by whoever builds them."""


def test_every_image_of_others_is_pinned_by_its_digest_or_an_argument(compose: dict[str, Any]) -> None:
    used = {service["image"] for service in compose["services"].values()}
    for path in DEPLOYMENTS.glob("Dockerfile*"):
        text = path.read_text()
        stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
        arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text.partition("\nFROM ")[0], re.MULTILINE))
        for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
            used |= set() if image in stages else {arguments[image.strip("${}")] if image[0] == "$" else image}
    foreign = {image for image in used if not image.startswith(OWN)}
    assert {image.partition(":")[0] for image in foreign} == {"python", "postgres", "redis", "chrislusf/seaweedfs"}
    assert [image for image in foreign if not re.search(r":\d\S*@sha256:[0-9a-f]{64}$", image)] == []


RAY_JOB: dict[str, type] = {
    "entrypoint": str, "shutdownAfterJobFinishes": bool, "ttlSecondsAfterFinished": int, "backoffLimit": int,
    "rayClusterSpec": dict,
}  # fmt: skip
RAY_CLUSTER: dict[str, type] = {"rayVersion": str, "headGroupSpec": dict, "workerGroupSpecs": list}
RAY_HEAD: dict[str, type] = {"rayStartParams": dict, "template": dict}
RAY_WORKERS: dict[str, type] = RAY_HEAD | {"groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int}
"""Fields of ray.io/v1 with their types (KubeRay, ray-operator/apis/ray/v1), as far as the job uses them."""


def has_just(given: dict[str, Any], fields: dict[str, type]) -> None:
    """Each field of its type, and no other: the API server drops unknown ones without a word."""
    assert {name: type(value) for name, value in given.items()} == fields


def test_the_ray_job_is_one_that_kuberay_takes() -> None:
    job = yaml.safe_load((DEPLOYMENTS / "kuberay-job.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    has_just(job["spec"], RAY_JOB)
    has_just(cluster, RAY_CLUSTER)
    has_just(cluster["headGroupSpec"], RAY_HEAD)
    (workers,) = cluster["workerGroupSpecs"]
    has_just(workers, RAY_WORKERS)
    for group, gpus in ((cluster["headGroupSpec"], None), (workers, 1)):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, **group["template"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"].get("nvidia.com/gpu") == gpus
        assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["spec"]["volumes"]}
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    pinned = (ROOT / "constraints.txt").read_text()
    assert f"ray=={cluster['rayVersion']}\n" in pinned, "head, workers and driver are of one version"
    _, name, *words = shlex.split(job["spec"]["entrypoint"])
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    assert "runner=ray" in str(command.make_context(name, words).params)


def test_workers_of_compose_start_when_everything_is_set_up(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name in ("worker", "gpu-worker"):
        assert services[name]["depends_on"]["setup"] == {"condition": "service_completed_successfully"}
        assert "--with-healthcheck" in services[name]["command"]
    assert "fixpoint setup" in services["setup"]["command"][2]


def test_commands_in_units_and_compose_are_ones_that_fixpoint_takes(compose: dict[str, Any]) -> None:
    units = "".join(path.read_text() for path in (DEPLOYMENTS / "systemd").glob("*.service"))
    started = re.findall(r"^ExecStart=\S+/(fixpoint .*)$", units, re.MULTILINE)
    chained = compose["services"]["setup"]["command"][2].replace("$$GPUS", "2").split("&&")
    assert len(started) == len(chained) == 2
    for line in (*started, *chained):
        _, name, *words = shlex.split(line)
        command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
        assert command.make_context(name, words).params


def test_a_server_on_another_port_tells_its_pages_where_the_api_is() -> None:
    environment = server_environment("127.0.0.1", 4201)
    assert environment["PREFECT_SERVER_API_PORT"] == "4201"
    assert environment["PREFECT_SERVER_UI_API_URL"] == environment["PREFECT_API_URL"] == "http://127.0.0.1:4201/api"
    behind = server_environment("0.0.0.0", 4200, "https://prefect.example.org/")
    assert behind["PREFECT_SERVER_UI_API_URL"] == "https://prefect.example.org/api"
