"""What a run that did not complete leaves in Prefect: one artifact that says what failed, why, and what to do.

The run itself writes it on its way out, cancellation included: a worker that cancels a run which lets itself be
cancelled does not call its hooks (Prefect 3.8). The hook for crashes is for a run that cannot: its process was killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect import Flow, get_client, get_run_logger
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext

from tasks.failures import failure_summary

KEY = "failures"


@contextmanager
def leaving_failures(output: str) -> Iterator[None]:
    """Whatever ends the block before its time is summed up in an artifact of the flow run, then goes its way."""
    try:
        yield
    except BaseException as error:
        context = FlowRunContext.get()
        try:
            if context is not None and context.flow_run is not None:
                run = context.flow_run
                _publish(run.id, output, f"# {run.name}\n\n{type(error).__name__}: {error}\n\n")
        except Exception as failed:  # the server is gone, perhaps: the first error is the one to show
            get_run_logger().warning("the summary of failures could not be published: %s", failed)
        raise


def publish_failures(flow: Flow[Any, Any], run: FlowRun, state: State[Any]) -> None:
    """Hook for a run whose process died."""
    del flow
    _publish(run.id, str(run.parameters.get("output")), f"# {run.name}: {state.name}\n\n{state.message or ''}\n\n")


def _publish(run: UUID, output: str, heading: str) -> None:
    """One artifact a run, whoever comes first."""
    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]), key=ArtifactFilterKey(any_=[KEY]))
    with get_client(sync_client=True) as client:
        if client.read_artifacts(artifact_filter=mine):
            return
        client.create_artifact(
            ArtifactCreate(
                key=KEY,
                type="markdown",
                description=f"What is left to do in {output}",
                data=heading + failure_summary(output),
                flow_run_id=run,
            )
        )


HOOKS: dict[str, Any] = {"on_crashed": [publish_failures]}
"""For every batch flow."""
