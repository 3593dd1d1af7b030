"""What Prefect's automations hear of a run: the events ``fixpoint.run.completed`` and ``fixpoint.run.degraded``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect.events import emit_event

from flows.figures import Figures
from tasks.store.names import output_name
from tasks.store.uris import parse

COMPLETED, DEGRADED = "fixpoint.run.completed", "fixpoint.run.degraded"
OUTPUT = "fixpoint.output."
"""What the ids of the events' resources begin with: one for each output."""


def emit(figures: Figures, report: str | None = None, flow_run_id: str | None = None) -> None:
    """Tell Prefect how a run ended; ``report``: where a browser finds its report."""
    payload: dict[str, Any] = {**asdict(figures), "said": figures.said, "report": report}
    related = [{"prefect.resource.id": f"prefect.flow-run.{flow_run_id}", "prefect.resource.role": "flow-run"}]
    emit_event(
        DEGRADED if figures.degraded else COMPLETED,
        resource={
            "prefect.resource.id": f"{OUTPUT}{output_name(parse(figures.output))}",
            "prefect.resource.name": figures.output,
            "fixpoint.operation": figures.operation,
        },
        related=related if flow_run_id else [],
        payload=payload,
    )
