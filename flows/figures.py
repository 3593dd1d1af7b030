"""What a run has come to, in figures: for log lines, metrics, events and whoever is told by them."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from flows.totals import totals
from tasks.report.failures import FailedPhoto, failed_photos
from tasks.store.ledger import Ledger, RunStatus, ShardId
from tasks.store.uris import parse
from tasks.text import plain

MAX_WARNINGS = 20
"""Failed photos that have a line of their own in the log of a run; the others are counted."""
MAX_FAILED = 1000
"""Failed photos of a run that are looked up."""


@dataclass(frozen=True)
class Figures:
    """A run, and the output after it. ``codes``: failed photos of the run by error code; ``error``: why it stopped."""

    operation: str
    output: str
    run_id: str | None
    processed: int = 0
    failed: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    evaluations: int = 0
    seconds: float = 0.0
    photos_in_all: int = 0
    done_in_all: int = 0
    failed_in_all: int = 0
    open_shards: int = 0
    error: str | None = None

    @property
    def degraded(self) -> bool:
        """Whether somebody should know: a photo failed, or something is left to do."""
        return bool(self.failed or self.open_shards or self.error)

    @property
    def said(self) -> str:
        """One sentence for people."""
        if self.error:
            return plain(f"{self.operation} to {self.output} stopped: {self.error}")
        did = f"{self.processed} photos processed, {self.failed} of them failed" if self.processed else "nothing new"
        left = f", {self.open_shards} shards are open" if self.open_shards else ""
        return plain(
            f"{self.operation} to {self.output}: {did}; in all {self.done_in_all} of {self.photos_in_all} are done, "
            f"{self.failed_in_all} failed{left}"
        )


def figures_of(
    operation: str, output: str, run_id: str | None, done: Sequence[Mapping[str, Any]], status: RunStatus, begun: float
) -> Figures:
    """The figures of a run that did the shards ``done`` and began when ``time.monotonic`` said ``begun``."""
    counts, codes = totals(done), sum((Counter(shard.get("codes") or {}) for shard in done), Counter[str]())
    return Figures(
        operation=operation,
        output=shown(output),
        run_id=run_id,
        processed=counts["processed"],
        failed=counts["processed_failed"],
        codes=dict(codes.most_common()),
        evaluations=counts["nfe"],
        seconds=round(time.monotonic() - begun, 3),
        photos_in_all=status.photos,
        done_in_all=status.ok,
        failed_in_all=status.failed,
        open_shards=status.open_shards,
    )


def shown(output: str) -> str:
    """An output as people know it: a folder's path, or an address without what is secret in it."""
    place = parse(output)
    return plain(place.path) if place.scheme == "file" else str(place.shown)


def own_shards(done: Sequence[Mapping[str, Any]]) -> list[ShardId]:
    """The shards whose rows are this run's: another run may have committed some of them meanwhile."""
    return sorted(ShardId(shard["plan"], shard["shard"]) for shard in done if shard["photos"])


def failed_of(ledger: Ledger, done: Sequence[Mapping[str, Any]]) -> list[FailedPhoto]:
    """Photos that failed in a run, ``MAX_FAILED`` at most."""
    shards = [ShardId(shard["plan"], shard["shard"]) for shard in done if shard.get("failed")]
    return list(islice(failed_photos(ledger, sorted(shards)), MAX_FAILED))


def warn(failed: Sequence[FailedPhoto], figures: Figures, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
    """A line in the log for each failed photo, as far as anybody reads them, and one for the others."""
    for photo in failed[:MAX_WARNINGS]:
        log.warning("failed: %s (%s): %s", plain(photo.key), photo.code, plain(photo.message))
    if (more := figures.failed - len(failed[:MAX_WARNINGS])) > 0:
        log.warning("failed: %d photos more; rows with status 'failed' name them all", more)
