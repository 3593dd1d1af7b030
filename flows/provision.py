"""What a Prefect server needs before Fixpoint's deployments: pools, a limit, a watch over runs that missed their heartbeats."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import timedelta
from difflib import unified_diff
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


@dataclass(frozen=True)
class PoolChange:
    """A work pool as it is to be. ``kept``: lines of a diff from Fixpoint's template to what operators made of it."""

    name: str
    kind: str
    limit: int | None
    template: dict[str, Any]
    exists: bool
    kept: tuple[str, ...] = ()

    def apply(self) -> None:
        """Make it so."""
        with get_client(sync_client=True) as client:
            if not self.exists:
                client.create_work_pool(WorkPoolCreate(name=self.name, type=self.kind, base_job_template=self.template))
            client.update_work_pool(
                self.name, WorkPoolUpdate(concurrency_limit=self.limit, base_job_template=self.template)
            )


def plan_pool(name: str, kind: str, limit: int | None, *, gpu: bool, reset: bool = False) -> PoolChange:
    """A work pool of a type with a concurrency limit; on Kubernetes the GPU pool's jobs ask for a GPU each.

    What operators changed in the template of a pool that exists is kept, and what Fixpoint's template has besides is
    added; ``reset`` takes Fixpoint's as it is.

    Raises:
        ValueError: if there is a pool of this name and another type.
    """
    ours = job_template(kind, gpu=gpu)
    with get_client(sync_client=True) as client:
        try:
            pool = client.read_work_pool(name)
        except ObjectNotFound:
            return PoolChange(name, kind, limit, ours, exists=False)
    if pool.type != kind:
        raise ValueError(
            f"there is a work pool {name} of type {pool.type}, and workers of {kind} cannot serve it: name another by --pool "
            "or --gpu-pool, or delete it"
        )
    template = ours if reset else merged(ours, pool.base_job_template)
    return PoolChange(name, kind, limit, template, exists=True, kept=difference(ours, pool.base_job_template))


def job_template(kind: str, *, gpu: bool) -> dict[str, Any]:
    """Fixpoint's base job template for a type of work pool: on Kubernetes our own, else Prefect's."""
    if kind != "kubernetes":
        return asyncio.run(get_default_base_job_template_for_infrastructure_type(kind)) or {}
    template: dict[str, Any] = json.loads(files("deployments").joinpath("kubernetes-job-template.json").read_text())
    if gpu:
        template["variables"]["properties"]["gpus"]["default"] = 1
    return template


def merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Their template, with what only ours has."""
    added = {name: value for name, value in ours.items() if name not in theirs}
    both = {
        name: merged(ours[name], value) if isinstance(value, dict) and isinstance(ours.get(name), dict) else value
        for name, value in theirs.items()
    }
    return {**both, **added}


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[str, ...]:
    """What operators changed in a template, as lines of a diff."""
    before, after = (
        json.dumps(one, indent=1, sort_keys=True, ensure_ascii=False).splitlines()
        for one in (ours, merged(ours, theirs))
    )
    return tuple(unified_diff(before, after, "Fixpoint's", "the pool's", n=1, lineterm=""))


def ensure_limit(name: str, slots: int) -> None:
    """A global concurrency limit with so many slots."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, slots)


def ensure_watch() -> None:
    """An automation that crashes a flow run of ours whose heartbeats stop: its machine is gone."""
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    trigger = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat", *ends},
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        match_related=OURS,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=SILENCE,
    )
    action = ChangeFlowRunState(state=StateType.CRASHED, message="No heartbeat: the worker or its machine is gone.")
    ensure_automation(AutomationCore(name=WATCH, trigger=trigger, actions=[action]))


def ensure_automation(wanted: AutomationCore) -> None:
    """An automation of this name that does this, made or brought up to date."""
    with get_client(sync_client=True) as client:
        there = client.read_automations_by_name(wanted.name)
        for automation in there:
            client.update_automation(automation.id, wanted)
        if not there:
            client.create_automation(wanted)


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
            action = SendNotification(block_document_id=document.id, subject=f"Fixpoint: {about}", body=body)
            title = f"fixpoint: {block} is told of {about}"
            ensure_automation(AutomationCore(name=title, trigger=trigger, actions=[action]))


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
