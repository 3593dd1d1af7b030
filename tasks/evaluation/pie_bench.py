"""PIE-Bench's measures of a committed editing run, as rows and as means by editing type."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from prefect import task
from prefect.cache_policies import NO_CACHE
from torch import Tensor

from fpcore.evaluation.perceptual import Judges, load_judges
from fpcore.evaluation.pie_bench import (
    EDITING_TYPES,
    METRICS,
    PUBLISHED,
    Measure,
    PieSample,
    means_by_type,
    measure,
    read_mapping,
    through_jpeg,
)
from fpcore.evaluation.rle_masks import SIDE
from fpcore.models.load import pick_device
from tasks.photos.decode import decode_photo, model_input
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store, read_uri

KINDS = ("editing", "reconstruction")
Rated = tuple[PieSample, dict[str, Measure]]


def _field(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": meaning})


SCHEMA = pa.schema(
    [
        _field("method", pa.string(), "inversion method"),
        _field("guidance", pa.string(), "guidance mode"),
        _field("kind", pa.string(), "editing: under the mask; reconstruction: the source branch, whole picture"),
        _field("id", pa.string(), "PIE-Bench's id"),
        _field("key", pa.string(), "the photo's path in the benchmark"),
        _field("editing_type", pa.string(), "PIE-Bench's editing type"),
        _field("nfe", pa.int32(), "rows of the UNet evaluated for the photo"),
        _field("nfe_inversion", pa.int32(), "of these, in the inversion"),
        *(_field(name, pa.float64(), "null: unavailable; NaN: the picture does not allow it") for name in METRICS),
    ]
)


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="measure {run}")
def measure_run(
    mapping: str, run: str, label: Mapping[str, str], judges: Mapping[str, str | None], device: str
) -> list[dict[str, Any]]:
    """Measure every finished photo of the run; the rows go to ``pie-bench.parquet`` there, their means come back.

    ``label``: method and guidance. ``judges``: paths of weights as ``fpcore.evaluation.perceptual.load_judges`` takes them.
    """
    where = pick_device(device)
    loaded = load_judges(**judges, device=where)  # type: ignore[arg-type]
    rated: dict[str, list[Rated]] = {kind: [] for kind in KINDS}
    rows: list[dict[str, Any]] = []
    for sample, row in _finished(mapping, run):
        for kind in KINDS:
            found = _rate(sample, row, kind, loaded, where)
            rated[kind].append((sample, found))
            values = {name: m.value for name, m in found.items()}
            rows.append({**label, "kind": kind, "id": sample.id, "editing_type": sample.editing_type, **row, **values})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink, compression="zstd")
    open_store(run).put("pie-bench.parquet", sink.getvalue())
    planned = Ledger(open_store(run)).status().planned
    return [
        {
            **label,
            "kind": kind,
            "type": group,
            "published": False,
            "planned": planned,
            "pictures": sum(group in ("all", EDITING_TYPES.get(sample.editing_type)) for sample, _ in rated[kind]),
            **{name: _plain(m) for name, m in means.items()},
        }
        for kind in KINDS
        for group, means in means_by_type(rated[kind]).items()
    ]


def published_rows() -> list[dict[str, Any]]:
    """The literature's figures in the shape of ``measure_run``'s, marked as published."""
    return [
        {
            "method": row.method, "guidance": None, "kind": "editing", "type": "all", "published": True,
            **{name: {"value": getattr(row, name, None), "reason": "not printed there"} for name in METRICS},
        }
        for row in PUBLISHED
    ]  # fmt: skip


def _finished(mapping: str, run: str) -> Iterator[tuple[PieSample, dict[str, Any]]]:
    """The benchmark's samples that the run has finished, each with its row."""
    samples = {sample.image_path: sample for sample in read_mapping(read_uri(mapping))}
    ledger = Ledger(open_store(run))
    columns = ["key", "source_uri", "status", "output", "reconstruction", "nfe", "nfe_inversion"]
    for shard in sorted(ledger.committed()):
        for row in ledger.read_shard(*shard, columns).to_pylist():
            if row["status"] == "ok":
                yield samples[row["key"]], row


def _rate(
    sample: PieSample, row: Mapping[str, Any], kind: str, judges: Judges, device: torch.device
) -> dict[str, Measure]:
    editing = kind == "editing"
    result = _picture(row["output" if editing else "reconstruction"]["bytes"])
    source = _seen(read_uri(row["source_uri"]), (result.shape[1], result.shape[2]))
    mask = sample.mask() if editing else torch.zeros(SIDE, SIDE, dtype=torch.bool)
    prompt = sample.target_prompt if editing else sample.source_prompt
    return measure(source.to(device), through_jpeg(_to_side(result)).to(device), mask, prompt, judges)


def _picture(data: bytes) -> Tensor:
    """(3, h, w) in [0, 1] of PNG bytes."""
    pixels = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _seen(photo: bytes, size: tuple[int, int]) -> Tensor:
    """The photo at the benchmark's size; through the model's size where that is another, so that what is measured is the
    edit and not the resolution."""
    return _to_side(torch.from_numpy(model_input(decode_photo(photo), size)))


def _to_side(picture: Tensor) -> Tensor:
    if picture.shape[1:] == (SIDE, SIDE):
        return picture
    return F.interpolate(picture[None], (SIDE, SIDE), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def _plain(measured: Measure) -> dict[str, Any]:
    """A measure as JSON; numbers that JSON has not become nothing with a reason."""
    if measured.value is not None and not math.isfinite(measured.value):
        return {"value": None, "reason": measured.reason or "infinite: the pictures are identical"}
    return {"value": measured.value, "reason": measured.reason}
