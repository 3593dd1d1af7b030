"""DDIM inversion of a group of pictures at model size, and its round trip as a proof."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from fpcore.evaluation.metrics import psnr
from fpcore.inversion.belm import invert_exactly, sample_exactly
from fpcore.inversion.criteria import Status
from fpcore.inversion.invert import Inversion, invert
from fpcore.inversion.oom import OOMBackoff
from fpcore.inversion.records import Recorder
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model
from fpcore.stopwatch import Stopwatch
from tasks.config import RunConfig
from tasks.shard.cancellation import Stop
from tasks.shard.method import inversion_method
from tasks.shard.outcome import Outcome, finite_outcome, inversion_columns
from tasks.shard.requests import EditRequests


def run_invert(
    model: Model, config: RunConfig, pixels: Tensor, requests: EditRequests, should_stop: Stop
) -> tuple[list[Outcome], dict[str, float]]:
    """Invert (M, 3, H, W) in [0, 1] under each photo's prompt, and regenerate it as a proof.

    Of the sampler o-belm's pair of latents the last one is kept.
    """
    watch = Stopwatch()
    schedule = Schedule.from_scheduler(model.scheduler, config.num_inference_steps)
    latents = model.latents_of(pixels)
    watch("encode")
    predict = OOMBackoff(model.under(model.embed(requests.prompts)))
    if config.sampler == "o-belm":
        pair = invert_exactly(predict, schedule, latents, batch_size=config.batch_size)
        inversion, evaluations = _exact_inversion(pair.last, schedule.evaluations), schedule.evaluations - 1
        watch("invert")
        back = sample_exactly(predict, schedule, pair.last, pair.before, batch_size=config.batch_size)
    else:
        inversion = invert_group(predict, config, schedule, latents, requests.seeds, should_stop)
        evaluations = schedule.evaluations
        watch("invert")
        back = sample(predict, schedule, inversion.latents, batch_size=config.batch_size, should_stop=should_stop)
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
            metrics={"psnr_round_trip": float(trip[i])},
            batch_size=predict.rows or config.batch_size,
        )
        outcomes.append(finite_outcome(inversion.status[i], pixels[i], result[i], columns, "nothing"))
    return outcomes, watch.seconds


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
    return invert(
        predict, schedule, latents, inversion_method(config), batch_size=config.batch_size, seeds=seeds,
        keep_trajectory=trajectory, should_stop=should_stop,
    )  # fmt: skip


def _exact_inversion(latents: Tensor, steps: int) -> Inversion:
    """An inversion that solved no fixed point: nothing to judge, nothing to record."""
    finite = latents.flatten(1).isfinite().all(1).tolist()
    status = [Status.COMPLETED if fine else Status.NONFINITE for fine in finite]
    return Inversion(latents, status, [steps] * len(latents), Recorder().finish())
