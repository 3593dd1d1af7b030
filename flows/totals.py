"""What a run's shards come to, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def totals(done: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Photos, failed ones, evaluations, worker processes and model loads of the shards that were done."""
    loads = model_loads(done)
    return {
        "processed": sum(shard["photos"] for shard in done),
        "processed_failed": sum(shard.get("failed") or 0 for shard in done),
        "nfe": sum(shard.get("nfe") or 0 for shard in done),
        "workers": len(loads),
        "model_loads": sum(loads.values()),
    }


def model_loads(done: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Model loads by worker process, as of its last shard."""
    loads: dict[str, int] = {}
    for shard in done:
        if name := shard.get("worker"):
            loads[name] = max(loads.get(name, 0), shard.get("model_loads") or 0)
    return loads
