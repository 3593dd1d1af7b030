"""The files of deployments/, as far as they can be judged without Docker and Kubernetes."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prefect.utilities.importtools import import_object
from prefect.utilities.templating import apply_values, find_placeholders
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.server import server_environment
from flows.provision import filled_deployments

ROOT = Path(__file__).parent.parent.parent
DEPLOYMENTS = ROOT / "deployments"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text()))


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return dict(json.loads((DEPLOYMENTS / "kubernetes-job-template.json").read_text()))


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


def test_the_job_template_is_prefects_own_with_a_gpu_and_without_root(template: dict[str, Any]) -> None:
    known, own = template["variables"]["properties"], prefects_own("kubernetes")
    assert set(own["variables"]["properties"]) <= set(known)
    assert set(own["job_configuration"]) == set(template["job_configuration"])
    assert {p.name for p in find_placeholders(template["job_configuration"])} <= set(known)
    defaults = {name: field["default"] for name, field in known.items() if "default" in field}
    pod = apply_values(template["job_configuration"], defaults)["job_manifest"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert pod["restartPolicy"] == "Never"


def test_compose_pins_images_keeps_secrets_out_and_listens_on_this_machine_only(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {"postgres", "redis", "server", "services", "worker", "gpu-worker", "s3"} <= set(services)
    for name, service in services.items():
        assert re.search(r":\d[\w.-]*$", service["image"]), f"{name}: image without a version"
        assert set(service.get("depends_on", {})) <= set(services)
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))
        secrets = [v for k, v in service.get("environment", {}).items() if re.search("PASSWORD|SECRET|_KEY", k)]
        assert all(str(value).startswith("${") for value in secrets)
    needed = set(re.findall(r"\$\{(\w+)", (DEPLOYMENTS / "compose.yaml").read_text()))
    assert needed == set(re.findall(r"^(\w+)=", (DEPLOYMENTS / "example.env").read_text(), re.MULTILINE))


def test_the_image_is_pinned_does_not_run_as_root_and_leaves_weights_out() -> None:
    lines = (DEPLOYMENTS / "Dockerfile").read_text().splitlines()
    assert re.fullmatch(r"FROM python:\d+\.\d+\.\d+-\S+", next(line for line in lines if line.startswith("FROM")))
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001"]
    assert any("pip install -c constraints.txt" in line for line in lines)
    copied = " ".join(line for line in lines if line.startswith("COPY"))
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert all(package.rstrip("*") in copied for package in packages)
    assert "huggingface-cli" not in "\n".join(lines)


def test_a_server_on_another_port_tells_its_pages_where_the_api_is() -> None:
    environment = server_environment("127.0.0.1", 4201)
    assert environment["PREFECT_SERVER_API_PORT"] == "4201"
    assert environment["PREFECT_SERVER_UI_API_URL"] == environment["PREFECT_API_URL"] == "http://127.0.0.1:4201/api"
    behind = server_environment("0.0.0.0", 4200, "https://prefect.example.org/")
    assert behind["PREFECT_SERVER_UI_API_URL"] == "https://prefect.example.org/api"
