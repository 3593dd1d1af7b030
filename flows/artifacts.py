"""What a run shows in Prefect while it works and when it is done: progress, shards, report, pictures, links."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.figures import own_shards
from flows.totals import totals
from tasks.report.failures import FailedPhoto
from tasks.report.place import REPORT, browser_address
from tasks.report.thumbnails import before_and_after
from tasks.shard.progress import PROGRESS, Pace, worker
from tasks.store.names import output_name
from tasks.store.uris import parse
from tasks.text import markdown, plain, target

COLUMNS = ("plan", "shard", "photos", "failed", "nfe", "seconds", "worker", "model_loads")
MAX_ROWS = 1000
UPDATE_EVERY = 2.0
"""Seconds between two updates of the progress artifact, at least."""


def artifact_key(output: str, name: str) -> str:
    """Key of an artifact: the versions of a key are those of one output."""
    return re.sub(r"[^a-z0-9]+", "-", f"{output_name(parse(output))}-{name}".lower()).strip("-")


class Board:
    """The artifacts and log lines of one run: one line a shard.

    ``browse``: the web address of the output, see ``tasks.report.place``.
    """

    def __init__(self, output: str, expected: int, browse: str | None = None) -> None:
        self.output, self.browse, self.done = output, browse, list[dict[str, Any]]()
        self.pace, self._shown = Pace(expected), time.monotonic()
        self._log = get_run_logger()
        self._artifact: Any = create_progress_artifact(0.0, key=self._key("progress"), description=f"{self.pace}")

    def _key(self, name: str) -> str:
        return artifact_key(self.output, name)

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
            create_table_artifact(rows, key=self._key("shards"), description=told)
        return summary

    def publish_failed(self, failed: Sequence[FailedPhoto], count: int) -> None:
        """The table of the photos that failed in this run, of which there are ``count``; none where none failed."""
        if not failed:
            return
        rows = [
            {"photo": plain(one.key), "code": one.code, "why": plain(one.message), "source": plain(one.source or "")}
            for one in failed
        ]
        first = f", the first {len(rows)}" if len(rows) < count else ""
        told = f"Failed photos of this run: {count}{first}. {markdown(self.output)}"
        create_table_artifact(rows, key=self._key("failed"), description=told)

    def publish(self, report: str | None) -> None:
        """The report, some photos before and after, and where the results are."""
        if report is not None:
            description = f"Report on {markdown(self.output)}"
            create_markdown_artifact(report, key=self._key("report"), description=description)
        pairs = [
            f"{markdown(key)}\n\n![before, after]({picture})\n"
            for key, picture in before_and_after(self.output, own_shards(self.done))
        ]
        if pairs:
            told = "Photos before and after"
            create_markdown_artifact("\n".join(pairs), key=self._key("before-after"), description=told)
        places = {"Pictures": "images/"} | ({"Report": REPORT} if report is not None else {})
        lines = [f"- {name}: {self._link(key)}" for name, key in places.items()]
        told = f"Where {markdown(self.output)} is"
        create_markdown_artifact("\n".join(lines) + "\n", key=self._key("output"), description=told)

    def _link(self, key: str) -> str:
        """The place of an object: a link if a browser can open it."""
        place = markdown(f"{self.output.rstrip('/')}/{key}")
        address = browser_address(self.output, key, self.browse)
        return f"[{place}]({target(address)})" if address else place
