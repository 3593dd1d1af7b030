"""A run that somebody starts from a deployment with some settings of his own keeps the deployment's others.

Prefect gives a run either the deployment's ``config`` as a whole, or what was said for the run and nothing else.
"""

from __future__ import annotations

from typing import Any

from prefect import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound

from flows.execution import Execution
from flows.forms import DEFAULTS, flat
from tasks.config import RunConfig


def with_deployment(config: RunConfig, execution: Execution) -> tuple[RunConfig, Execution]:
    """What was said for this run, and for all else what its deployment says; as given where there is no deployment.

    Raises ValueError if the two do not go together.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.deployment_id is None:
        return config, execution
    with get_client(sync_client=True) as client:
        try:
            deployed = client.read_deployment(run.deployment_id).parameters
        except ObjectNotFound:  # deleted since
            return config, execution
    settings = {**DEFAULTS.get(config.operation, {}), **_both(deployed, run.parameters, "config")}
    return RunConfig(**settings | {"operation": config.operation}), Execution(
        **_both(deployed, run.parameters, "execution")
    )


def _both(deployed: dict[str, Any], said: dict[str, Any], name: str) -> dict[str, Any]:
    return {**flat(deployed.get(name) or {}), **flat(said.get(name) or {})}
