"""What a run does to a group of pictures at model size: the bridge from a configuration to fpcore."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fpcore.criteria import Status
from fpcore.dark_channel import dehaze as dark_channel_dehaze
from fpcore.dehaze import Dehazed, DehazeSettings, dehaze
from fpcore.methods import Method, method
from fpcore.models.model import Model
from fpcore.schedule import Schedule
from fpcore.verdict import judge
from tasks.config import RunConfig
from tasks.photos import Pixels


@dataclass(frozen=True)
class Outcome:
    """What one picture of the group became: ``source`` and ``result`` (3, H, W) in [0, 1], and columns of its row."""

    source: Tensor
    result: Tensor
    strength: float
    columns: dict[str, Any]
    error: tuple[str, str] | None = None


def inversion_method(config: RunConfig) -> Method:
    """The inversion method of a configuration. Raises ValueError for options that do not fit together."""
    return method(
        config.method,
        tolerance=config.tolerance,
        iterations=config.iterations,
        guess=config.guess,
        damping=config.damping,
        anderson=config.anderson,
    )


def png(picture: Tensor) -> bytes:
    """(3, H, W) or (H, W) in [0, 1] as PNG bytes."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels if pixels.ndim == 2 else np.moveaxis(pixels, 0, -1)).save(buffer, "PNG")
    return buffer.getvalue()


def step_rows(dehazed: Dehazed, schedule: Schedule, image: int) -> list[dict[str, Any]]:
    """The ``steps`` column of one image."""
    r = dehazed.inversion.records.of_image(image)
    timesteps = schedule.timesteps.numpy()[r.step]
    columns = {"step": r.step, "timestep": timesteps, "iteration": r.iteration, "intra": r.intra, "bound": r.bound, "rate": r.rate}
    lists = {name: values.tolist() for name, values in columns.items()}
    lists["inter"] = [None if np.isnan(x) else x for x in r.inter.tolist()]
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def run_dehaze(
    model: Model, config: RunConfig, pixels: Tensor, should_stop: Callable[[], bool] | None
) -> tuple[list[Outcome], dict[str, float]]:
    """Dehaze (M, 3, H, W) in [0, 1]; outcomes in order, and seconds by stage."""
    settings = DehazeSettings(
        variant=config.dehaze_variant,  # type: ignore[arg-type]
        method=inversion_method(config),
        num_inference_steps=config.num_inference_steps,
        prompt=config.prompt,
        target_prompt=config.target_prompt,
        guidance_scale=config.guidance_scale,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    dehazed = dehaze(model, pixels, settings, should_stop=should_stop)
    schedule = Schedule.from_scheduler(model.scheduler, config.num_inference_steps)
    verdicts = judge(pixels, dehazed.result, dehazed.amount)
    outcomes = []
    for i, verdict in enumerate(verdicts):
        status = dehazed.inversion.status[i]
        finite = status != Status.NONFINITE and bool(dehazed.result[i].isfinite().all())
        latent = dehazed.inversion.latents[i].cpu()
        columns = {
            "verdict": verdict.name if finite else None,
            "prompt": dehazed.prompts[0],
            "target_prompt": dehazed.prompts[1],
            "latent": latent if config.save_latents and finite else None,
            "output": {"bytes": png(dehazed.result[i]), "path": None} if finite else None,
            "haze_map": {"bytes": png(dehazed.haze_map[i]), "path": None} if finite else None,
            "inversion_status": status.label,
            "steps": step_rows(dehazed, schedule, i) if config.save_steps else None,
            "nfe": dehazed.nfe[i],
            "nfe_inversion": dehazed.inversion.nfe[i],
            "metrics": {name: value for name, value in verdict.measures.items() if np.isfinite(value)},
            "batch_size": dehazed.rows or config.batch_size,
        }
        error = None if finite else ("non-finite", "The model returned values that are not numbers. Try float32.")
        outcomes.append(Outcome(pixels[i], dehazed.result[i], verdict.strength * config.strength, columns, error))
    return outcomes, dehazed.seconds


def run_dark_channel(config: RunConfig, pixels: Tensor) -> tuple[list[Outcome], dict[str, float]]:
    """The dark channel prior as a baseline: thumbnails for the row, no model. Full resolution: ``dark_channel_pixels``."""
    result = dark_channel_dehaze(pixels, patch=3, radius=8)
    veil = (pixels - result.image).mean(1).clamp(0, 1)
    shared = {"verdict": "improved", "nfe": 0, "nfe_inversion": 0, "metrics": {}, "batch_size": config.batch_size}
    outcomes = []
    for i in range(len(pixels)):
        pictures = {"output": {"bytes": png(result.image[i]), "path": None}, "haze_map": {"bytes": png(veil[i]), "path": None}}
        outcomes.append(Outcome(pixels[i], result.image[i], config.strength, {**shared, **pictures}))
    return outcomes, {}


def dark_channel_pixels(pixels: Pixels) -> Pixels:
    """(H, W, 3) uint8 or uint16 dehazed by the dark channel prior at its own resolution; the same type comes back."""
    peak = np.iinfo(pixels.dtype).max
    picture = torch.from_numpy(pixels.astype(np.float32) / peak).permute(2, 0, 1)
    clear = dark_channel_dehaze(picture).image[0].permute(1, 2, 0).numpy()
    return (clear * peak).round().astype(pixels.dtype)


def seeds_of(config: RunConfig, image_ids: list[str], given: list[int | None]) -> list[int]:
    """A seed per photo: the manifest's, else drawn from the run's seed and the photo's digest (63 bits)."""
    return [
        (config.seed ^ int(image_id[:15], 16)) if seed is None else seed
        for image_id, seed in zip(image_ids, given, strict=True)
    ]
