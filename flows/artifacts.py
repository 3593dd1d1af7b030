"""What a run shows in Prefect while it works and when it is done: progress, shards, report, pictures, links."""

from __future__ import annotations

import time
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.totals import totals
from tasks.report.thumbnails import before_and_after
from tasks.shard.progress import PROGRESS, Pace, worker
from tasks.text import markdown, target

COLUMNS = ("plan", "shard", "photos", "failed", "nfe", "seconds", "worker", "model_loads")
MAX_ROWS = 1000
UPDATE_EVERY = 2.0
"""Seconds between two updates of the progress artifact, at least."""


class Board:
    """The artifacts and log lines of one run: one line a shard, none a photo."""

    def __init__(self, output: str, expected: int) -> None:
        self.output, self.done = output, list[dict[str, Any]]()
        self.pace, self._shown = Pace(expected), time.monotonic()
        self._log = get_run_logger()
        self._artifact: Any = create_progress_artifact(0.0, key="progress", description=f"{self.pace}")

    @property
    def shards(self) -> list[tuple[int, int]]:
        """Plan and number of the shards that are committed."""
        return [(shard["plan"], shard["shard"]) for shard in self.done]

    def add(self, shard: dict[str, Any]) -> None:
        """A shard is committed."""
        shard = {"failed": 0, "seconds": 0, **shard}
        self.done.append(shard)
        self.pace.done += shard["photos"]
        if shard.get("worker") != worker():  # its own process counted the photos
            PROGRESS.add("photos", shard["photos"])
            PROGRESS.add("failed", shard["failed"])
        self._log.info(
            "shard %(plan)06d-%(shard)05d: %(photos)d photos, %(failed)d failed, %(seconds).1f s; %(pace)s",
            {**shard, "pace": self.pace},
        )
        if time.monotonic() - self._shown > UPDATE_EVERY:
            self._show()

    def note(self, text: str) -> None:
        """A line in the run's log about something that went wrong and is dealt with."""
        self._log.warning(text)

    def _show(self) -> None:
        self._shown = time.monotonic()
        update_progress_artifact(self._artifact, self.pace.percent, f"{self.pace}")

    def close(self) -> dict[str, Any]:
        """Last state of the progress, and the table of shards; what was done, in numbers."""
        self._show()
        summary = totals(self.done)
        if self.done:
            told = f"{len(self.done)} shards by {summary['workers']} worker processes, {summary['model_loads']} model loads"
            self._log.info(told)
            rows = [{name: shard.get(name) for name in COLUMNS} for shard in self.done[:MAX_ROWS]]
            create_table_artifact(rows, key="shards", description=told)
        return summary

    def publish(self, report: str | None) -> None:
        """The report, some photos before and after, and where the results are."""
        if report is not None:
            create_markdown_artifact(report, key="report", description=f"Report on {markdown(self.output)}")
        for key, picture in before_and_after(self.output, self.shards):
            create_image_artifact(picture, key="before-after", description=f"{markdown(key)}: before, after")
        for name in ("images", "report/index.html") if report is not None else ("images",):
            place = f"{self.output}/{name}"
            create_link_artifact(target(place), key="output", link_text=markdown(place))
