"""What became of one photo, typed: the columns an operation fills, and why a photo failed."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from fpcore.dehazing.restore import Restoration
from fpcore.inversion.criteria import Status
from fpcore.inversion.invert import Inversion
from fpcore.inversion.schedule import Schedule
from tasks.config import RunConfig
from tasks.store.schema import STEP

STEP_NAMES = tuple(field.name for field in STEP)
MAX_MESSAGE = 2000
Publish = Literal["render", "model-size", "restored", "nothing"]


@dataclass(frozen=True)
class Failure:
    """Why a photo failed: ``code`` is one word for tables, ``message`` a sentence that names the fix."""

    code: str
    message: str

    def __post_init__(self) -> None:
        """Make the message one that Parquet takes: names may hold bytes that are no text, and errors whole documents."""
        object.__setattr__(self, "message", printable(self.message[:MAX_MESSAGE]))


def printable(text: str) -> str:
    """``text`` as UTF-8 can hold it: names and errors may carry bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", " ")


NON_FINITE = Failure(
    "non-finite", "The model returned values that are not numbers for this photo. Try --set torch_dtype=float32."
)


@dataclass(frozen=True)
class Columns:
    """What an operation and the publication of its result add to a photo's row, under the schema's names.

    None where a column does not apply. ``latent`` (C, h, w). Pictures are PNG bytes. ``metrics`` by name, finite or not:
    what is not finite is left out of the row.
    """

    verdict: str | None = None
    reason: str | None = None
    strength: float | None = None
    prompt: str | None = None
    target_prompt: str | None = None
    edit_settings: str | None = None
    latent: Tensor | None = None
    inversion_status: str | None = None
    steps: list[dict[str, Any]] | None = None
    paths: list[dict[str, Any]] | None = None
    sampling_status: str | None = None
    sampling_steps: list[dict[str, Any]] | None = None
    nfe: int | None = None
    nfe_inversion: int | None = None
    batch_size: int | None = None
    output: bytes | None = None
    haze_map: bytes | None = None
    reconstruction: bytes | None = None
    attention_map: bytes | None = None
    invention_map: bytes | None = None
    output_path: str | None = None
    output_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    metrics: dict[str, float] | None = None
    metadata_dropped: list[str] | None = None

    def measured(self, metrics: dict[str, float]) -> Columns:
        """The same with further metrics."""
        return replace(self, metrics={**(self.metrics or {}), **metrics})


@dataclass(frozen=True)
class Outcome:
    """What one picture of a group became: ``source`` and ``result`` (3, H, W) in [0, 1], and columns of its row.

    ``restoration``: how its haze comes off at the photo's own resolution, where that is known; else the change from ``source``
    to ``result`` is transferred. ``strength``: the part of the edit to apply, 0 to 1. ``publish``: "render" brings the change to
    the photo's own resolution (a change of colour and light), "model-size" publishes the result as it is (changed content),
    "restored" adds to the photo what it lacks and changes nothing of it (``tasks.shard.restore``), "nothing" publishes
    no picture.
    """

    source: Tensor
    result: Tensor
    strength: float
    columns: Columns
    failure: Failure | None = None
    publish: Publish = "render"
    restoration: Restoration | None = None


def finite_outcome(
    status: Status, source: Tensor, result: Tensor, columns: Columns, publish: Publish, strength: float = 1.0
) -> Outcome:
    """The outcome of a photo, or its failure where the model returned no numbers."""
    if status == Status.NONFINITE or not bool(result.isfinite().all()):
        return Outcome(source, source, 0.0, replace(columns, latent=None, haze_map=None), NON_FINITE, publish)
    return Outcome(source, result, strength, replace(columns, output=png(result)), None, publish)


def inversion_columns(config: RunConfig, schedule: Schedule, inversion: Inversion, i: int) -> Columns:
    """The columns that every inversion fills, of image ``i``."""
    return Columns(
        latent=inversion.latents[i].cpu() if config.save_latents else None,
        inversion_status=inversion.status[i].label,
        steps=step_rows(inversion, schedule, i) if config.save_steps else None,
        nfe_inversion=inversion.nfe[i],
        metrics={"latent_error_bound": inversion.path_bound[i]},
    )


def step_rows(inversion: Inversion, schedule: Schedule, image: int) -> list[dict[str, Any]]:
    """The ``steps`` column of one image: entries of ``tasks.store.schema.STEP``."""
    r = inversion.records.of_image(image)
    timesteps = schedule.timesteps.numpy()[r.step]
    inter = [None if np.isnan(x) else x for x in r.inter.tolist()]
    numbers = [x.tolist() for x in (r.step, timesteps, r.iteration, r.intra)]
    lists = [*numbers, inter, r.bound.tolist(), r.rate.tolist()]
    return [dict(zip(STEP_NAMES, row, strict=True)) for row in zip(*lists, strict=True)]


def png(picture: Tensor) -> bytes:
    """(3, H, W) or (H, W) in [0, 1] as PNG bytes."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels if pixels.ndim == 2 else np.moveaxis(pixels, 0, -1)).save(buffer, "PNG")
    return buffer.getvalue()
