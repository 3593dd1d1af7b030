"""What a shard commits: one row a photo, and what made them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from fpcore.inversion.criteria import Status
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model
from tasks.config import RunConfig
from tasks.shard.load import Loaded
from tasks.shard.operations import seed_of
from tasks.shard.progress import PROGRESS, worker
from tasks.store.schema import STAGES, shard_schema


def shard_table(done: list[Loaded], config: RunConfig, plan: int, shard: int) -> pa.Table:
    """The shard's rows in the order of the plan."""
    shapes = {tuple(item.result["latent"].shape) for item in done if item.result.get("latent") is not None}
    shape = next(iter(shapes)) if len(shapes) == 1 else None
    done = sorted(done, key=lambda item: int(item.planned["row"]))
    rows = [_row(item, config, plan, shard) for item in done]
    schema = shard_schema(shape)
    columns = [
        _latents(rows, shape) if name == "latent" else pa.array([r.get(name) for r in rows], schema.field(name).type)
        for name in schema.names
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _latents(rows: list[dict[str, Any]], shape: tuple[int, ...] | None) -> pa.Array:
    """The latent column: tensors of one shape, or raw bytes."""
    halves = [None if r.get("latent") is None else r["latent"].half().numpy() for r in rows]
    if shape is None:
        return pa.array([None if x is None else x.tobytes() for x in halves], pa.binary())
    storage = pa.array([None if x is None else x.ravel() for x in halves], pa.list_(pa.float16(), int(np.prod(shape))))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float16(), list(shape)), storage)


def _row(item: Loaded, config: RunConfig, plan: int, shard: int) -> dict[str, Any]:
    planned, result = item.planned, item.result
    code, message = item.error or (None, None)
    latent = result.get("latent")
    return {
        "prompt": planned["prompt"] or config.prompt,
        "target_prompt": planned["target_prompt"] or config.target_prompt,
        **result,
        "plan": plan,
        "shard": shard,
        "row": planned["row"],
        "key": planned["key"],
        "image_id": item.image_id,
        "source_uri": planned["uri"],
        "source_etag": planned["etag"],
        "source_size": item.source_size,
        "status": "failed" if item.error else "ok",
        "error_code": code,
        "error_message": message,
        "verdict": None if item.error else result.get("verdict"),
        "editing_type": planned["editing_type"],
        "latent_shape": None if latent is None else list(latent.shape),
        "metrics": None if "metrics" not in result else list(result["metrics"].items()),
        "timings": {stage: item.seconds.get(stage) for stage in STAGES},
        "seed": seed_of(config, item.image_id, planned["seed"]),
    }


def shard_footer(config: RunConfig, model: Model | None, versions: dict[str, str], started: datetime) -> dict[str, Any]:
    """What made the shard."""
    facts: dict[str, Any] = {
        "configuration": config.identity(),
        "versions": versions,
        "started_at": started.isoformat(),
        "finished_at": datetime.now(UTC).isoformat(),
        "worker": worker(),
        "model_loads": PROGRESS.get("model_loads"),
        "method": config.method,
        "num_inference_steps": config.num_inference_steps,
        "statuses": [status.label for status in Status],
    }
    if model is not None:
        schedule = Schedule.from_scheduler(model.scheduler, config.num_inference_steps)
        facts |= {
            "model_digest": model.digest,
            "device": str(model.device),
            "timesteps": schedule.timesteps.tolist(),
            "alphas": [float(a) for a in schedule.alpha],
            "rates": [float(r) for r in schedule.rate],
        }
    return facts
