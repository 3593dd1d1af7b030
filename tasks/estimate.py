"""What a run would do: counts from a listing, nothing written."""

from __future__ import annotations

from typing import Any

from tasks.sources import list_photos
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store


def estimate(source: str, output: str) -> dict[str, Any]:
    """Photos and bytes under ``source``, and what ``output`` already holds."""
    photos = size = 0
    for entry in list_photos(source, output=output):
        photos += 1
        size += entry.get("size") or 0
    status = Ledger(open_store(output)).status()
    return {
        "photos": photos,
        "megabytes": round(size / 1e6, 1),
        "already_planned": status.planned,
        "already_done": status.committed,
    }
