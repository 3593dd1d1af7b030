"""What a run that did not complete leaves in Prefect: one artifact that says what failed, why, and what to do."""

from __future__ import annotations

from typing import Any

from prefect import Flow, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import FlowRun, State

from flows.artifacts import artifact_key
from tasks.report.failures import failure_summary
from tasks.text import markdown


def publish_failures(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook for failure, crash and cancellation: a Markdown artifact ``failures`` on the flow run.

    Workers call it by these keywords, the engine by position.
    """
    del flow
    output = str(flow_run.parameters.get("output"))
    heading = f"# {markdown(flow_run.name)}: {markdown(state.name)}\n\n{markdown(state.message or '')}\n\n"
    artifact = ArtifactCreate(
        key=artifact_key(output, "failures"),
        type="markdown",
        description=f"What is left to do in {markdown(output)}",
        data=heading + failure_summary(output),
        flow_run_id=flow_run.id,
    )
    with get_client(sync_client=True) as client:
        client.create_artifact(artifact)


HOOKS: dict[str, Any] = {
    "on_failure": [publish_failures],
    "on_crashed": [publish_failures],
    "on_cancellation": [publish_failures],
}
"""For every batch flow."""
