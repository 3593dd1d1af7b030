"""DDIM inversion of a group of low-resolution pictures, and its round trip as a proof."""

from __future__ import annotations

from dataclasses import replace
from math import nan

from torch import Tensor

from fpcore.evaluation.metrics import psnr
from fpcore.inversion.belm import TWO_STEP_RULES, invert_exactly, noise_status, sample_exactly
from fpcore.inversion.criteria import rms
from fpcore.inversion.edict import invert_coupled, sample_coupled
from fpcore.inversion.flow_samplers import flow_evaluations, invert_flow, sample_flow
from fpcore.inversion.invert import Inversion, invert
from fpcore.inversion.oom import OOMBackoff
from fpcore.inversion.records import Recorder
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model
from fpcore.stopwatch import Stopwatch
from tasks.config import RunConfig
from tasks.shard.cancellation import Stop
from tasks.shard.method import flow_sampler, inversion_method
from tasks.shard.outcome import Outcome, finite_outcome, inversion_columns
from tasks.shard.requests import EditRequests


def run_invert(
    model: Model, config: RunConfig, pixels: Tensor, requests: EditRequests, should_stop: Stop
) -> tuple[list[Outcome], dict[str, float]]:
    """Invert (M, 3, H, W) in [0, 1] under each photo's prompt, and regenerate it as a proof.

    Of the pair of latents of an exact sampler the last one is kept.
    """
    watch = Stopwatch()
    latents = model.latents_of(pixels)
    schedule = Schedule.from_scheduler(model.scheduler_for(latents), config.num_inference_steps)
    watch("encode")
    predict = OOMBackoff(model.under(model.embed(requests.prompts)))
    inversion, back, evaluations = _there_and_back(predict, config, schedule, latents, requests, should_stop, watch)
    watch("sample")
    result = model.pictures_of(back)
    watch("decode")
    trip = psnr(result.clamp(0, 1), pixels.cpu())
    outcomes = []
    for i in range(len(pixels)):
        columns = replace(
            inversion_columns(config, schedule, inversion, i),
            prompt=requests.prompts[i],
            target_prompt=requests.prompts[i],
            nfe=inversion.nfe[i] + evaluations,
            batch_size=predict.rows or config.batch_size,
        ).measured({"psnr_round_trip": float(trip[i])})
        outcomes.append(finite_outcome(inversion.status[i], pixels[i], result[i], columns, "nothing"))
    return outcomes, watch.seconds


def _there_and_back(
    predict: OOMBackoff,
    config: RunConfig,
    schedule: Schedule,
    latents: Tensor,
    requests: EditRequests,
    should_stop: Stop,
    watch: Stopwatch,
) -> tuple[Inversion, Tensor, int]:
    """The inversion, what sampling makes of it (M, C, h, w), and the evaluations that took per image."""
    size, n = config.batch_size, schedule.evaluations
    if config.sampler in TWO_STEP_RULES:
        rule = config.sampler
        pair = invert_exactly(predict, schedule, latents, batch_size=size, rule=rule)
        watch("invert")
        back = sample_exactly(predict, schedule, pair.last, pair.before, batch_size=size, rule=rule)
        return _exact_inversion(pair.last, n), back, n - 1
    if config.sampler == "edict":
        pair = invert_coupled(predict, schedule, latents, batch_size=size)
        watch("invert")
        back = sample_coupled(predict, schedule, pair.last, pair.before, batch_size=size)
        return _exact_inversion(pair.last, 2 * n), back, 2 * n
    inversion = invert_group(predict, config, schedule, latents, requests.seeds, should_stop)
    watch("invert")
    sampler = flow_sampler(config)
    if sampler is not None:
        back = sample_flow(sampler, predict, schedule, inversion.latents, latents, batch_size=size)
        return inversion, back, flow_evaluations(sampler, n)
    return inversion, sample(predict, schedule, inversion.latents, batch_size=size, should_stop=should_stop), n


def invert_group(
    predict: OOMBackoff,
    config: RunConfig,
    schedule: Schedule,
    latents: Tensor,
    seeds: list[int],
    should_stop: Stop,
    *,
    trajectory: bool = False,
) -> Inversion:
    """Invert latents (M, C, h, w) as the configuration says, with each photo's own seed."""
    sampler = flow_sampler(config)
    if sampler is not None:
        found = invert_flow(sampler, predict, schedule, latents, batch_size=config.batch_size, seeds=seeds)
        return _exact_inversion(found, flow_evaluations(sampler, schedule.evaluations))
    return invert(
        predict, schedule, latents, inversion_method(config), batch_size=config.batch_size, seeds=seeds,
        keep_trajectory=trajectory, should_stop=should_stop,
    )  # fmt: skip


def _exact_inversion(latents: Tensor, evaluations: int) -> Inversion:
    """An inversion that solved no fixed point: nothing to record, and judged by whether its latent is noise."""
    status = [noise_status(size) for size in rms(latents).tolist()]
    return Inversion(latents, status, [evaluations] * len(latents), Recorder().finish(), [nan] * len(latents))
