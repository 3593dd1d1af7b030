"""What a shard commits: one row a photo, and what made them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from fpcore.inversion.criteria import Status
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model
from tasks.config import RunConfig, RunOrigin
from tasks.shard.loaded import Loaded
from tasks.shard.progress import PROGRESS, worker
from tasks.shard.requests import seed_of
from tasks.store.schema import STAGES, shard_schema
from tasks.store.uris import parse

PICTURES = ("output", "haze_map", "reconstruction", "attention_map", "invention_map")


@dataclass(frozen=True)
class ShardOrigin:
    """Where rows belong and who made them: plan and shard, the run, and the SHA-256 over the model's files."""

    plan: int
    shard: int
    run: RunOrigin = RunOrigin()
    model_digest: str | None = None


def shard_table(done: list[Loaded], config: RunConfig, origin: ShardOrigin) -> pa.Table:
    """The shard's rows in the order of the plan. Raises ValueError where rows and schema name different columns."""
    shapes = {tuple(item.columns.latent.shape) for item in done if item.columns.latent is not None}
    shape = next(iter(shapes)) if len(shapes) == 1 else None
    rows = [row_of(item, config, origin) for item in sorted(done, key=lambda item: item.planned.row)]
    schema = shard_schema(shape)
    for row in rows:
        check_names(row, schema)
    columns = [
        _latents(rows, shape) if name == "latent" else pa.array([r[name] for r in rows], schema.field(name).type)
        for name in schema.names
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def check_names(row: dict[str, Any], schema: pa.Schema) -> None:
    """Raise ValueError unless a row names just the columns of the schema: Arrow would make a misspelt one null."""
    strange = row.keys() ^ set(schema.names)
    if strange:
        raise ValueError(f"a row and the shard's schema differ in {', '.join(sorted(strange))}")


def _latents(rows: list[dict[str, Any]], shape: tuple[int, ...] | None) -> pa.Array:
    """The latent column: tensors of one shape, or raw bytes."""
    halves = [None if r["latent"] is None else r["latent"].half().numpy() for r in rows]
    if shape is None:
        return pa.array([None if x is None else x.tobytes() for x in halves], pa.binary())
    storage = pa.array([None if x is None else x.ravel() for x in halves], pa.list_(pa.float16(), int(np.prod(shape))))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float16(), list(shape)), storage)


def row_of(item: Loaded, config: RunConfig, origin: ShardOrigin) -> dict[str, Any]:
    """A photo's row, by the names of ``tasks.store.schema.shard_schema``."""
    planned, failure = item.planned, item.failure
    columns = {field.name: getattr(item.columns, field.name) for field in fields(item.columns)}
    latent, metrics = item.columns.latent, item.columns.metrics
    return {
        **columns,
        **{name: None if columns[name] is None else {"bytes": columns[name], "path": None} for name in PICTURES},
        "prompt": _first(item.columns.prompt, planned.prompt or None, config.prompt),
        "target_prompt": _first(item.columns.target_prompt, planned.target_prompt or None, config.target_prompt),
        "plan": origin.plan,
        "shard": origin.shard,
        "row": planned.row,
        "key": planned.key,
        "image_id": item.image_id,
        "source_uri": parse(planned.uri).recorded if planned.uri else None,
        "source_etag": item.source_etag,
        "source_size": item.source_size,
        "status": "ok" if failure is None else "failed",
        "error_code": None if failure is None else failure.code,
        "error_message": None if failure is None else failure.message,
        "verdict": item.columns.verdict if failure is None else None,
        "editing_type": planned.editing_type,
        "latent_shape": None if latent is None else list(latent.shape),
        "metrics": None if metrics is None else [(name, x) for name, x in metrics.items() if np.isfinite(x)],
        "timings": timings_of(item.seconds),
        "seed": seed_of(config, item.image_id, planned.seed),
        "attempt": planned.attempt or 1,
        "processed_at": item.processed_at,
        "run_id": origin.run.run_id,
        "flow_run_id": origin.run.flow_run_id,
        "model_digest": origin.model_digest,
    }


def _first(*given: str | None) -> str | None:
    """The first that is given."""
    return next((text for text in given if text is not None), None)


def timings_of(seconds: dict[str, float]) -> dict[str, float | None]:
    """Seconds by stage, null where a photo did not come to it. Raises ValueError for a stage that the schema does not name."""
    if strange := seconds.keys() - set(STAGES):
        raise ValueError(f"the schema has no stage {', '.join(sorted(strange))}")
    return {stage: seconds.get(stage) for stage in STAGES}


def shard_footer(
    config: RunConfig, model: Model | None, versions: dict[str, str], started: datetime, run: RunOrigin
) -> dict[str, Any]:
    """What made the shard."""
    facts: dict[str, Any] = {
        "configuration": config.identity(),
        "versions": versions,
        "run_id": run.run_id,
        "flow_run_id": run.flow_run_id,
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
            "rates": [None if r.isnan() else float(r) for r in schedule.rate],
        }
    return facts
