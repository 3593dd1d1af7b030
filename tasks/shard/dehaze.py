"""Dehazing a group of pictures at model size: the bridge from a configuration to ``fpcore.dehazing``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fpcore.dehazing.dehaze import DehazeSettings, dehaze
from fpcore.dehazing.quality_gate import judge, measure
from fpcore.evaluation.dark_channel import dehaze as dark_channel_dehaze
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model
from tasks.config import RunConfig
from tasks.photos.decode import Pixels
from tasks.shard.cancellation import Stop
from tasks.shard.method import inversion_method
from tasks.shard.outcome import Columns, Outcome, finite_outcome, inversion_columns, png


def run_dehaze(
    model: Model, config: RunConfig, pixels: Tensor, darkest: Tensor, prior: Tensor | None, should_stop: Stop
) -> tuple[list[Outcome], dict[str, float]]:
    """Dehaze (M, 3, H, W) in [0, 1]; outcomes in order, and seconds by stage.

    ``darkest`` (M,): of the photographs at full resolution (``fpcore.dehazing.haze_density.darkest_value``).
    ``prior`` (M, 1, H, W) in [0, 1]: depth maps for ``prior-weighted``; None = the dark channel.
    """
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
    dehazed = dehaze(model, pixels, settings, darkest=darkest, prior=prior, should_stop=should_stop)
    scheduler = model.scheduler_for(dehazed.inversion.latents)
    schedule = Schedule.from_scheduler(scheduler, config.num_inference_steps)
    verdicts = judge(pixels, dehazed.result, dehazed.seen, darkest)
    outcomes = []
    for i, verdict in enumerate(verdicts):
        columns = replace(
            inversion_columns(config, schedule, dehazed.inversion, i),
            verdict=verdict.name,
            prompt=dehazed.prompts[0],
            target_prompt=dehazed.prompts[1],
            haze_map=png(dehazed.haze_map[i]),
            nfe=dehazed.nfe[i],
            batch_size=dehazed.rows or config.batch_size,
        ).measured({"haze_amount": float(dehazed.amount[i]), **verdict.measures})
        strength = verdict.strength * config.strength
        status = dehazed.inversion.status[i]
        outcomes.append(finite_outcome(status, pixels[i], dehazed.result[i], columns, "render", strength))
    return outcomes, dehazed.seconds


def run_dark_channel(config: RunConfig, pixels: Tensor) -> tuple[list[Outcome], dict[str, float]]:
    """The dark channel prior as a baseline: thumbnails for the row, no model. Full resolution: ``dark_channel_pixels``."""
    result = dark_channel_dehaze(pixels, patch=3, radius=8)
    veil = (pixels - result.image).mean(1).clamp(0, 1)
    measures = measure(pixels, result.image)
    shared = Columns(verdict="improved", nfe=0, nfe_inversion=0, batch_size=config.batch_size)
    outcomes = []
    for i in range(len(pixels)):
        columns = replace(shared, output=png(result.image[i]), haze_map=png(veil[i]), metrics=measures[i])
        outcomes.append(Outcome(pixels[i], result.image[i], config.strength, columns))
    return outcomes, {}


def dark_channel_pixels(pixels: Pixels, strength: float = 1.0, mask: npt.NDArray[np.float32] | None = None) -> Pixels:
    """(H, W, 3) uint8 or uint16 dehazed by the dark channel prior at its own resolution; the same type comes back.

    ``strength`` and ``mask`` (H, W), in [0, 1], interpolate between the photograph and the result.
    """
    peak = np.iinfo(pixels.dtype).max
    picture = torch.from_numpy(pixels.astype(np.float32) / peak).permute(2, 0, 1)
    clear = dark_channel_dehaze(picture).image[0].permute(1, 2, 0).numpy()
    share = strength if mask is None else strength * mask[..., None]
    rounded: npt.NDArray[np.float32] = (pixels + share * (clear * peak - pixels)).round()
    return rounded.astype(np.uint8) if pixels.dtype == np.uint8 else rounded.astype(np.uint16)
