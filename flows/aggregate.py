"""The flow ``aggregate``: analytics tables of any number of runs, for a schedule."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger

from tasks.analytics.aggregate import aggregate as make_tables


@flow(
    name="aggregate",
    flow_run_name="aggregate to {destination}",
    description="Analytics tables (steps, images, runs, summary) from committed shards; reads only what is new.",
    persist_result=False,
)
def aggregate(outputs: list[str], destination: str) -> dict[str, Any]:
    """Bring the tables at ``destination`` up to date with the committed shards of ``outputs``.

    Args:
        outputs: outputs of runs, folders or s3:// prefixes
        destination: folder or s3:// prefix that the tables go to
    """
    summary = make_tables(outputs, destination)
    get_run_logger().info("%s new photos, %s new steps", summary.images_new, summary.steps_new)
    return {"images_new": summary.images_new, "steps_new": summary.steps_new, "seconds": summary.seconds}
