"""Prompt-to-Prompt editing of a group of low-resolution pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.editing.edit import EditResult, edit, pair_maps
from fpcore.editing.flow_edit import edit_flow
from fpcore.evaluation.metrics import psnr, structure_distance
from fpcore.inversion.flow_samplers import FlowSampler
from fpcore.inversion.invert import Cancelled, Inversion
from fpcore.inversion.oom import OOMBackoff
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model
from fpcore.stopwatch import Stopwatch
from tasks.config import RunConfig
from tasks.edit_settings import described
from tasks.shard.attention_pictures import attention_picture
from tasks.shard.cancellation import Stop
from tasks.shard.invert import invert_group
from tasks.shard.method import flow_sampler
from tasks.shard.outcome import Columns, Failure, Outcome, finite_outcome, inversion_columns, png
from tasks.shard.requests import EditRequests


def run_edit(
    model: Model, config: RunConfig, pixels: Tensor, requests: EditRequests, should_stop: Stop
) -> tuple[list[Outcome], dict[str, float]]:
    """From each photo's source prompt to its target prompt, under the run's guidance mode: Prompt-to-Prompt, or for
    rectified flow ``fpcore.editing.flow_edit``.

    A photo whose prompts or words do not fit fails alone, before anything is evaluated for it.
    """
    refused = [_refusal(model, requests, i) for i in range(len(pixels))]
    able = [i for i, reason in enumerate(refused) if reason is None]
    done, seconds = _edit(model, config, pixels[able], requests.of(able), should_stop) if able else ([], {})
    outcomes = iter(done)
    return [
        next(outcomes)
        if reason is None
        else Outcome(pixels[i], pixels[i], 0.0, Columns(), Failure("unfit-prompts", reason))
        for i, reason in enumerate(refused)
    ], seconds


def _refusal(model: Model, requests: EditRequests, i: int) -> str | None:
    """Why photo ``i`` cannot be edited, as a sentence."""
    target = requests.targets[i]
    if target is None:
        return "Nothing says what the photo is to show: give --target, or a column target_prompt in the manifest."
    if model.is_flow:
        unfit = requests.blend_words[i] is not None
        return "A blend word needs cross-attention, which this model has not: leave it out." if unfit else None
    try:
        pair_maps(model, [requests.prompts[i]], [target], requests.edits[i], [requests.blend_words[i]])
    except ValueError as error:
        return f"The edit does not fit its prompts: {error}."
    return None


def _edit(
    model: Model, config: RunConfig, pixels: Tensor, requests: EditRequests, should_stop: Stop
) -> tuple[list[Outcome], dict[str, float]]:
    watch = Stopwatch()
    latents = model.latents_of(pixels)
    schedule = Schedule.from_scheduler(model.scheduler_for(latents), config.num_inference_steps)
    watch("encode")
    predict = OOMBackoff(model.under(model.embed(requests.prompts)))
    needs_path = config.guidance in ("nti", "direct-inversion")
    inversion = invert_group(predict, config, schedule, latents, requests.seeds, should_stop, trajectory=needs_path)
    watch("invert")
    job = _Job(model, schedule, latents, inversion, flow_sampler(config))
    edited = _edit_pairs(job, requests, predict.rows or config.batch_size, should_stop)
    watch("sample")
    result, source = (model.pictures_of(z) for z in (edited.target, edited.source))
    watch("decode")
    moved = structure_distance(result.clamp(0, 1), pixels.cpu())
    kept = psnr(source.clamp(0, 1), pixels.cpu())
    outcomes = []
    for i in range(len(pixels)):
        columns = replace(
            inversion_columns(config, schedule, inversion, i),
            prompt=requests.prompts[i],
            target_prompt=requests.targets[i],
            edit_settings=described(requests.edits[i], requests.blend_words[i]),
            nfe=inversion.nfe[i] + int(edited.nfe[i]),
            batch_size=predict.rows or config.batch_size,
            reconstruction=png(source[i]) if bool(source[i].isfinite().all()) else None,
            attention_map=_attention_picture(model, requests, edited, i),
        ).measured({"structure_distance": float(moved[i]), "psnr_reconstruction": float(kept[i])})
        outcomes.append(finite_outcome(inversion.status[i], pixels[i], result[i], columns, "model-size"))
    return outcomes, watch.seconds


@dataclass(frozen=True)
class _Job:
    """What all batches of a group share; ``z0`` (M, C, h, w) are the photos' own latents."""

    model: Model
    schedule: Schedule
    z0: Tensor
    inversion: Inversion
    sampler: FlowSampler | None


def _edit_pairs(job: _Job, requests: EditRequests, size: int, should_stop: Stop) -> EditResult:
    """Edit all pairs, ``size`` at a time; half as many once the device has run out of memory."""
    parts: list[EditResult] = []
    start, count = 0, len(job.z0)
    while start < count:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped between two batches")
        rows = range(start, min(start + size, count))
        try:
            parts.append(_edit_rows(job, requests.of(rows), list(rows)))
            start = rows.stop
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = (size + 1) // 2
    return EditResult.cat(parts)


def _edit_rows(job: _Job, requests: EditRequests, rows: list[int]) -> EditResult:
    latents, path = job.inversion.latents[rows], job.inversion.trajectory
    path = None if path is None else path[rows]
    targets = [target or "" for target in requests.targets]
    regions = None
    if requests.regions is not None:
        regions = F.adaptive_max_pool2d(requests.regions, latents.shape[-2:]).to(latents.device) > 0
    if job.model.is_flow:
        return edit_flow(
            job.model, job.schedule, latents, job.z0[rows], requests.prompts, targets, requests.edits,
            sampler=job.sampler, trajectory=path, regions=regions,
        )  # fmt: skip
    return edit(
        job.model, job.schedule, latents, requests.prompts, targets, requests.edits,
        blend_words=requests.blend_words, regions=regions, trajectory=path,
    )  # fmt: skip


def _attention_picture(model: Model, requests: EditRequests, edited: EditResult, i: int) -> bytes | None:
    """What each word of photo ``i`` attends to, where its maps were recorded."""
    if edited.source_maps is None or edited.target_maps is None:
        return None
    prompts = (requests.prompts[i], requests.targets[i] or "")
    return attention_picture(model, prompts, (edited.source_maps[i], edited.target_maps[i]))
