"""Dehazing a group of low-resolution pictures: the bridge from a configuration to ``fpcore.dehazing``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.dehazing.dehaze import Dehazed, DehazeSettings, dehaze
from fpcore.dehazing.gentle import as_judged
from fpcore.dehazing.haze_estimate import HazeEstimate, HazeView, estimate_haze, even_estimate, haze_density_nets
from fpcore.dehazing.quality_gate import HAZY, Verdict, edit_measures, judge_edit, judge_estimate
from fpcore.dehazing.restore import Restoration, even_restoration, plan_restoration, restore, restore_picture
from fpcore.dehazing.tone import tone_of
from fpcore.evaluation.dark_channel import dehaze as dark_channel_dehaze
from fpcore.inversion.criteria import Status
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model
from fpcore.models.sizing import pad
from fpcore.stopwatch import Stopwatch
from tasks.config import RunConfig
from tasks.photos.decode import Pixels
from tasks.shard.cancellation import Stop
from tasks.shard.density_picture import density_picture
from tasks.shard.method import inversion_method
from tasks.shard.outcome import Columns, Outcome, finite_outcome, inversion_columns, png


def run_dehaze(
    model: Model | None,
    config: RunConfig,
    pixels: Tensor,
    views: list[HazeView],
    prior: Tensor | None,
    should_stop: Stop,
) -> tuple[list[Outcome], dict[str, float]]:
    """Dehaze M photos; outcomes in order, and seconds by stage.

    ``model``: None for methods that need none. ``pixels`` (M, 3, H, W) in [0, 1] at model size, ``views`` what the haze is
    estimated from, ``prior`` (M, 1, H, W) in [0, 1]: depth maps for ``prior-weighted``; None = the density of haze.
    """
    if config.dehaze_variant == "dcp":
        return run_dark_channel(config, pixels)
    if config.dehaze_variant == "even-veil":
        return [_even_veil(config, view) for view in views], {}
    watch = Stopwatch()
    nets = haze_density_nets(config.haze_weights)
    estimates = [estimate_haze(view, nets) for view in views]
    watch("encode")  # what is asked of a picture before any diffusion
    if config.dehaze_variant in ("density", "density+words"):
        outcomes = _by_density(model, config, pixels, views, estimates, watch, should_stop)
    else:
        assert model is not None, config.dehaze_variant
        outcomes = _by_words(model, config, pixels, estimates, prior, watch, should_stop)
    return outcomes, watch.seconds


def _settings(config: RunConfig) -> DehazeSettings:
    chosen = "words-by-place" if config.dehaze_variant == "density+words" else config.dehaze_variant
    return DehazeSettings(
        dehazing_method=chosen,  # type: ignore[arg-type]
        method=inversion_method(config),
        num_inference_steps=config.num_inference_steps,
        prompt=config.prompt,
        target_prompt=config.target_prompt,
        guidance_scale=config.guidance_scale,
        batch_size=config.batch_size,
        seed=config.seed,
    )


def _diffused(
    model: Model,
    config: RunConfig,
    pixels: Tensor,
    estimates: list[HazeEstimate],
    prior: Tensor | None,
    watch: Stopwatch,
    stop: Stop,
) -> Dehazed:
    """``dehaze`` on pictures padded to what the model takes, cropped back."""
    height, width = pixels.shape[-2:]
    maps = torch.cat([F.adaptive_avg_pool2d(e.density[None, None], (height, width)) for e in estimates])
    airlight = torch.stack([e.airlight for e in estimates])
    maps = pad(maps if prior is None else prior, model)
    done = dehaze(model, pad(pixels, model), _settings(config), density=maps, airlight=airlight, should_stop=stop)
    watch.add(done.seconds)
    return replace(done, result=done.result[..., :height, :width], haze_map=done.haze_map[..., :height, :width])


def _by_density(
    model: Model | None,
    config: RunConfig,
    pixels: Tensor,
    views: list[HazeView],
    estimates: list[HazeEstimate],
    watch: Stopwatch,
    stop: Stop,
) -> list[Outcome]:
    """Physics at full resolution, and tone by diffusion if a model is given, but not for a photo that is or may be clear."""
    plans = [
        plan_restoration(e, v.texture, white_balance=config.white_balance)
        for e, v in zip(estimates, views, strict=True)
    ]
    restored = [restore_picture(r, e.picture).clamp(0, 1) for r, e in zip(plans, estimates, strict=True)]
    verdicts = [judge_estimate(e, x, HAZY[config.haze_weights]) for e, x in zip(estimates, restored, strict=True)]
    columns = [Columns(nfe=e.evaluations, nfe_inversion=0, batch_size=max(1, config.batch_size)) for e in estimates]
    status = [Status.COMPLETED] * len(estimates)
    watch("encode")  # what is asked of a picture before any diffusion
    plans = [as_judged(*row) for row in zip(plans, views, verdicts, strict=True)]
    hazy = [i for i, verdict in enumerate(verdicts) if verdict.strength > 0 and verdict.least_psnr is None]
    if model is not None and hazy:
        done = _diffused(model, config, pixels[hazy], [estimates[i] for i in hazy], None, watch, stop)
        for k, i in enumerate(hazy):
            columns[i] = _diffusion_columns(model, config, done, k, estimates[i])
            if bool(done.result[k].isfinite().all()):
                plans[i] = replace(plans[i], tone=tone_of(estimates[i], restored[i], done.result[k]))
            else:
                status[i] = Status.NONFINITE
    rows = zip(estimates, plans, verdicts, status, columns, strict=True)
    return [_restored_outcome(config, *row) for row in rows]


def _diffusion_columns(model: Model, config: RunConfig, done: Dehazed, k: int, e: HazeEstimate) -> Columns:
    scheduler = model.scheduler_for(done.inversion.latents)
    schedule = Schedule.from_scheduler(scheduler, config.num_inference_steps)
    return replace(
        inversion_columns(config, schedule, done.inversion, k),
        nfe=e.evaluations + done.nfe[k],
        prompt=done.prompts[0],
        target_prompt=done.prompts[1],
        batch_size=done.rows or config.batch_size,
    )


def _restored_outcome(
    config: RunConfig, e: HazeEstimate, plan: Restoration, verdict: Verdict, status: Status, columns: Columns
) -> Outcome:
    """The outcome of a photo whose haze is taken off at its own resolution by ``plan``."""
    strength = verdict.strength * config.strength
    small = (e.picture * 255).round().byte().permute(1, 2, 0).numpy()
    result = torch.from_numpy(restore(plan, small, strength)).permute(2, 0, 1).float() / 255
    picture = density_picture(e.density)
    columns = replace(
        columns,
        verdict=verdict.name,
        reason=verdict.reason,
        haze_map=picture,
        attention_map=picture if config.attention_maps else None,
    ).measured(verdict.measures)
    outcome = finite_outcome(status, e.picture, result, columns, "render", strength)
    return replace(outcome, restoration=plan)


def _by_words(
    model: Model,
    config: RunConfig,
    pixels: Tensor,
    estimates: list[HazeEstimate],
    prior: Tensor | None,
    watch: Stopwatch,
    stop: Stop,
) -> list[Outcome]:
    """Diffusion alone, the paper's methods among it: its result, transferred to full resolution."""
    done = _diffused(model, config, pixels, estimates, prior, watch, stop)
    outcomes = []
    for i, (e, verdict) in enumerate(zip(estimates, judge_edit(pixels, done.result), strict=True)):
        picture = density_picture(done.haze_map[i])
        columns = replace(
            _diffusion_columns(model, config, done, i, e),
            verdict=verdict.name,
            reason=verdict.reason,
            haze_map=picture,
            attention_map=picture if config.attention_maps else None,
        ).measured({"haze_amount": e.amount, "darkest": e.dark, **verdict.measures})
        strength = verdict.strength * config.strength
        status = done.inversion.status[i]
        outcomes.append(finite_outcome(status, pixels[i], done.result[i], columns, "render", strength))
    return outcomes


def _even_veil(config: RunConfig, view: HazeView) -> Outcome:
    """One veil all over taken off, as a baseline: A the brightest value, t what leaves the dark percentile black."""
    estimate = even_estimate(view)
    plan = even_restoration(estimate)
    verdict = Verdict("cleared", 1.0, "The same veil was taken off everywhere.", {"haze_amount": estimate.amount})
    return _restored_outcome(
        config, estimate, plan, verdict, Status.COMPLETED, Columns(nfe=0, nfe_inversion=0, batch_size=1)
    )


def run_dark_channel(config: RunConfig, pixels: Tensor) -> tuple[list[Outcome], dict[str, float]]:
    """The dark channel prior as a baseline: thumbnails for the row, no model. Full resolution: ``dark_channel_pixels``."""
    result = dark_channel_dehaze(pixels, patch=3, radius=8)
    veil = (pixels - result.image).mean(1).clamp(0, 1)
    measures = edit_measures(pixels, result.image)
    shared = Columns(verdict="cleared", nfe=0, nfe_inversion=0, batch_size=config.batch_size)
    outcomes = []
    for i in range(len(pixels)):
        columns = replace(shared, output=png(result.image[i]), haze_map=density_picture(veil[i]), metrics=measures[i])
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
