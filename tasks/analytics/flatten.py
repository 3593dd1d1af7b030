"""From the nested rows of shards to the flat tables ``steps`` and ``images``; no Python loop over rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.analytics.schema import IMAGES, STEPS, UNREAD
from tasks.store.schema import STAGES, shard_schema

SHARD_COLUMNS = tuple(name for name in shard_schema().names if name not in UNREAD)
"""What the tables are made from. Latents and pictures are never read."""


def flatten_steps(shards: pa.Table) -> pa.Table:
    """``steps`` of some shard rows: one row an iteration, in the order of the ledger."""
    steps = shards.column("steps").combine_chunks()
    parent = pc.list_parent_indices(steps).cast(pa.int32())
    entries = pc.list_flatten(steps)
    columns = {name: pc.struct_field(entries, name) for name in entries.type.names}
    owner = parent.to_numpy()
    columns |= {name: shards.column(name).combine_chunks().take(parent) for name in ("plan", "shard", "row")}
    columns["image_id"] = _spread(shards.column("image_id"), parent)
    columns["key"] = _spread(shards.column("key"), parent)
    measured = pc.fill_null(pc.is_finite(columns["inter"]), False).to_numpy(zero_copy_only=False)
    columns["nfe"] = pa.array(_running_cost(measured, owner))
    columns["last"] = pa.array(_ends(columns["step"].to_numpy(zero_copy_only=False), owner))
    return pa.table({name: columns[name] for name in STEPS.names})


def flatten_images(shards: pa.Table) -> pa.Table:
    """``images`` of some shard rows: scalars, measures, and seconds by stage."""
    timings = shards.column("timings").combine_chunks()
    stages = [pc.struct_field(timings, stage) for stage in STAGES]
    columns = {name: shards.column(name) for name in IMAGES.names if name in shards.column_names}
    columns |= {f"seconds_{stage}": seconds for stage, seconds in zip(STAGES, stages, strict=True)}
    columns["seconds"] = _total(stages)
    columns["iterations"] = pc.fill_null(pc.list_value_length(shards.column("steps")), 0)
    return pa.table([columns[name].cast(IMAGES.field(name).type) for name in IMAGES.names], schema=IMAGES)


def _spread(column: pa.ChunkedArray, parent: pa.Array) -> pa.DictionaryArray:
    """A photo's text repeated for each of its iterations, stored once. Only photos without steps lack it."""
    return pa.DictionaryArray.from_arrays(parent, column.combine_chunks().fill_null(""))


def _running_cost(inter: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """UNet rows spent so far, restarting with each photo: 1 an iteration, 2 where two paths were evaluated."""
    total = np.cumsum(1 + inter.astype(np.int32), dtype=np.int64)
    if not total.size:
        return total.astype(np.int32)
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    before = np.concatenate(([0], total[first[1:] - 1]))
    cost: np.ndarray = (total - np.repeat(before, np.diff(first, append=owner.size))).astype(np.int32)
    return cost


def _ends(step: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """True where the next entry belongs to another step or photo."""
    if not step.size:
        return np.zeros(0, bool)
    return np.concatenate(((step[1:] != step[:-1]) | (owner[1:] != owner[:-1]), [True]))


def _total(stages: list[pa.Array]) -> pa.Array:
    """Sum over the stages that have a number; null if none has."""
    known = pc.or_kleene(*[stage.is_valid() for stage in stages[:2]])
    for stage in stages[2:]:
        known = pc.or_(known, stage.is_valid())
    total = stages[0].fill_null(0)
    for stage in stages[1:]:
        total = pc.add(total, stage.fill_null(0))
    return pc.if_else(known, total, None)
