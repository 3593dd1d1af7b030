"""Prompt-to-Prompt editing of a group of pictures at model size."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.editing.edit import EditResult, edit, pair_maps
from fpcore.evaluation.metrics import psnr, structure_distance
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
from tasks.shard.outcome import Columns, Failure, Outcome, finite_outcome, inversion_columns, png
from tasks.shard.requests import EditRequests


def run_edit(
    model: Model, config: RunConfig, pixels: Tensor, requests: EditRequests, should_stop: Stop
) -> tuple[list[Outcome], dict[str, float]]:
    """Prompt-to-Prompt from each photo's source prompt to its target prompt, under the run's guidance mode.

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
    try:
        pair_maps(model, [requests.prompts[i]], [target], requests.edits[i], [requests.blend_words[i]])
    except ValueError as error:
        return f"The edit does not fit its prompts: {error}."
    return None


def _edit(
    model: Model, config: RunConfig, pixels: Tensor, requests: EditRequests, should_stop: Stop
) -> tuple[list[Outcome], dict[str, float]]:
    watch = Stopwatch()
    schedule = Schedule.from_scheduler(model.scheduler, config.num_inference_steps)
    latents = model.latents_of(pixels)
    watch("encode")
    predict = OOMBackoff(model.under(model.embed(requests.prompts)))
    needs_path = config.guidance in ("nti", "direct-inversion")
    inversion = invert_group(predict, config, schedule, latents, requests.seeds, should_stop, trajectory=needs_path)
    watch("invert")
    edited = _edit_pairs(model, schedule, inversion, requests, predict.rows or config.batch_size, should_stop)
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
            metrics={"structure_distance": float(moved[i]), "psnr_reconstruction": float(kept[i])},
            batch_size=predict.rows or config.batch_size,
            reconstruction=png(source[i]) if bool(source[i].isfinite().all()) else None,
            attention_map=_attention_picture(model, requests, edited, i),
        )
        outcomes.append(finite_outcome(inversion.status[i], pixels[i], result[i], columns, "model-size"))
    return outcomes, watch.seconds


def _edit_pairs(
    model: Model, schedule: Schedule, inversion: Inversion, requests: EditRequests, size: int, should_stop: Stop
) -> EditResult:
    """Edit all pairs, ``size`` at a time; half as many once the device has run out of memory."""
    parts: list[EditResult] = []
    start, count = 0, len(inversion.latents)
    while start < count:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped between two batches")
        rows = range(start, min(start + size, count))
        try:
            parts.append(_edit_rows(model, schedule, inversion, requests.of(rows), list(rows)))
            start = rows.stop
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = (size + 1) // 2
    return EditResult.cat(parts)


def _edit_rows(
    model: Model, schedule: Schedule, inversion: Inversion, requests: EditRequests, rows: list[int]
) -> EditResult:
    latents, path = inversion.latents[rows], inversion.trajectory
    regions = None
    if requests.regions is not None:
        regions = F.adaptive_max_pool2d(requests.regions, latents.shape[-2:]).to(latents.device) > 0
    return edit(
        model, schedule, latents, requests.prompts, [target or "" for target in requests.targets], requests.edits,
        blend_words=requests.blend_words, regions=regions, trajectory=None if path is None else path[rows],
    )  # fmt: skip


def _attention_picture(model: Model, requests: EditRequests, edited: EditResult, i: int) -> bytes | None:
    """What each word of photo ``i`` attends to, where its maps were recorded."""
    if edited.source_maps is None or edited.target_maps is None:
        return None
    prompts = (requests.prompts[i], requests.targets[i] or "")
    return attention_picture(model, prompts, (edited.source_maps[i], edited.target_maps[i]))
