"""What a Prefect server needs before Fixpoint's deployments: pools, a limit, a watch over runs that missed their heartbeats."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from importlib.resources import files
from typing import Any

import yaml
from prefect import get_client
from prefect.automations import AutomationCore
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events import ResourceSpecification
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from flows.events import DEGRADED, OUTPUT
from flows.forms import flat, grouped

OURS = ResourceSpecification({"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.fixpoint"})
"""Related resource of what our flow runs emit: their tag."""
WATCH = "fixpoint: runs that missed their heartbeats are crashed"
SILENCE = timedelta(minutes=9)
"""Three heartbeats of a flow run, at Prefect's default of 180 s."""


def ensure_pool(name: str, kind: str, limit: int | None, *, gpu: bool) -> None:
    """A work pool of a type with a concurrency limit; on Kubernetes the GPU pool's jobs ask for a GPU."""
    if gpu and kind == "kubernetes":
        template = json.loads(files("deployments").joinpath("kubernetes-job-template.json").read_text())
    else:
        template = asyncio.run(get_default_base_job_template_for_infrastructure_type(kind)) or {}
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))
        client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit, base_job_template=template))


def ensure_limit(name: str, slots: int) -> None:
    """A global concurrency limit with so many slots."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, slots)


def ensure_watch() -> None:
    """An automation that crashes a flow run whose heartbeats stop: its machine is gone."""
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    trigger = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat", *ends},
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=SILENCE,
    )
    action = ChangeFlowRunState(state=StateType.CRASHED, message="No heartbeat: the worker or its machine is gone.")
    with get_client(sync_client=True) as client:
        if not client.read_automations_by_name(WATCH):
            client.create_automation(AutomationCore(name=WATCH, trigger=trigger, actions=[action]))


def ensure_notification(block: str) -> None:
    """Automations that tell a notification block, ``type/name``, of degraded runs and of those that crashed.

    Raises:
        ValueError: if the server has no such block.
    """
    kind, _, name = block.partition("/")
    with get_client(sync_client=True) as client:
        try:
            document = client.read_block_document_by_name(name, kind)
        except ObjectNotFound:
            raise ValueError(
                f"the server has no block {block}: make one in the Prefect UI under Blocks, and name it TYPE/NAME as its page "
                "does, for instance slack-webhook/photographs"
            ) from None
        for about, trigger, body in (
            ("degraded runs", _degraded(), "{{ event.payload.said }}\n{{ event.payload.report or '' }}"),
            (
                "crashed runs",
                _crashed(),
                "{{ flow_run.name }} crashed: {{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
            ),
        ):
            title = f"fixpoint: {block} is told of {about}"
            if not client.read_automations_by_name(title):
                action = SendNotification(block_document_id=document.id, subject=f"Fixpoint: {about}", body=body)
                client.create_automation(AutomationCore(name=title, trigger=trigger, actions=[action]))


def _degraded() -> EventTrigger:
    """Each event of a run in which a photo failed or something was left."""
    outputs = ResourceSpecification({"prefect.resource.id": f"{OUTPUT}*"})
    return EventTrigger(expect={DEGRADED}, match=outputs, posture=Posture.Reactive, threshold=1)


def _crashed() -> EventTrigger:
    """Each crash of one of our flow runs, which could say nothing any more."""
    return EventTrigger(
        expect={"prefect.flow-run.Crashed"},
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=OURS,
        posture=Posture.Reactive,
        threshold=1,
    )


def filled_deployments(content: str, config: dict[str, Any], execution: dict[str, Any], image: str | None) -> str:
    """prefect.yaml with settings of the nightly run, and an image for every flow run, put in.

    Raises ValidationError for settings that the flow would refuse.
    """
    from flows.execution import Execution
    from tasks.config import RunConfig

    document = yaml.safe_load(content)
    for deployment in document["deployments"]:
        if deployment["entrypoint"] == "flows.dehaze.dehaze":
            parameters = deployment["parameters"]
            parameters["config"] = grouped("dehaze", flat(parameters.get("config", {})) | config)
            parameters["execution"] = parameters.get("execution", {}) | execution
            RunConfig(**flat(parameters["config"]))
            Execution(**parameters["execution"])
        if image is not None:
            deployment["work_pool"].setdefault("job_variables", {})["image"] = image
    return str(yaml.safe_dump(document, sort_keys=False))
