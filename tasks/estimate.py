"""What a run would do: counts from a listing, and time and storage from what another run took. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.photos.listing import PassedOver
from tasks.photos.sources import list_photos
from tasks.store.access import SOURCE_ONLY, Access
from tasks.store.compact import originals
from tasks.store.ledger import Ledger
from tasks.store.names import COMPACTED, IMAGES
from tasks.store.objects import open_store


def estimate(source: str, output: str, access: Access = SOURCE_ONLY) -> dict[str, Any]:
    """Photos and bytes under ``source``, and what ``output`` already holds."""
    photos, size, passed = 0, 0, PassedOver()
    for entry in list_photos(source, output=output, access=access, passed=passed):
        photos += 1
        size += entry.get("size") or 0
    status = Ledger(open_store(output)).status()
    return {
        "photos": photos,
        "megabytes": round(size / 1e6, 1),
        "passed_over": dict(passed),
        "already_planned": status.planned,
        "already_done": status.committed,
    }


@dataclass(frozen=True)
class Rates:
    """What a photo took in a finished run: seconds on one device, bytes of picture and of Parquet; photos a shard."""

    seconds: float
    picture_bytes: float
    row_bytes: float
    shard_size: int


def rates_of(output: str) -> Rates:
    """Rates of the committed shards of a run. The time of a shard is from its start to its commit.

    Raises ValueError if nothing is committed there.
    """
    ledger = Ledger(open_store(output))
    footers = [ledger.shard_footer(*shard) for shard in ledger.committed()]
    rows = sum(footer["rows"] for footer in footers)
    if not rows:
        raise ValueError(f"{output} has no committed shard to measure: run a few hundred photos there first")
    moments = [(datetime.fromisoformat(f["started_at"]), datetime.fromisoformat(f["finished_at"])) for f in footers]
    seconds = sum((finished - started).total_seconds() for started, finished in moments)
    pictures = sum(entry.size or 0 for entry in ledger.store.list(IMAGES))
    parquet = sum(entry.size or 0 for folder in ("shards/", COMPACTED) for entry in ledger.store.list(folder))
    parquet -= sum(entry.size or 0 for shard in originals(ledger) if (entry := ledger.store.stat(shard.key)))
    return Rates(seconds / rows, pictures / rows, parquet / rows, max(footer["rows"] for footer in footers))


def sizing(rates: Rates, photos: int, devices: Sequence[int]) -> list[dict[str, Any]]:
    """Hours and storage for so many photos on each number of devices, all as fast as the one that was measured."""
    shards = -(-photos // rates.shard_size)
    return [
        {
            "photos": photos,
            "devices": n,
            "hours": float(f"{-(-shards // n) * rates.shard_size * rates.seconds / 3600:.3g}"),
            "shards": shards,
            "minutes_a_shard": float(f"{rates.shard_size * rates.seconds / 60:.3g}"),
            "pictures_gb": float(f"{photos * rates.picture_bytes / 1e9:.3g}"),
            "parquet_gb": float(f"{photos * rates.row_bytes / 1e9:.3g}"),
        }
        for n in devices
    ]
