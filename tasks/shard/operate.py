"""A run's operation on a group of photos of one model size: the device's part of a shard."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from fpcore.dehazing.haze_estimate import HazeView, view_photograph
from fpcore.inversion.invert import Cancelled
from fpcore.models.model import Model
from fpcore.models.rows import auto_batch_size
from fpcore.models.sizing import pad
from tasks.config import RunConfig
from tasks.photos.sidecars import resized
from tasks.shard.boundary import BEYOND_THE_PHOTO, photo_boundary, unexpected
from tasks.shard.cancellation import Stop
from tasks.shard.dehaze import run_dehaze
from tasks.shard.edit import run_edit
from tasks.shard.invert import run_invert
from tasks.shard.loaded import Loaded
from tasks.shard.method import inversion_method
from tasks.shard.outcome import Failure, Outcome
from tasks.shard.requests import EditRequests, requests_of
from tasks.shard.restore import run_restore
from tasks.store.planned import PlannedPhoto

OUT_OF_MEMORY = Failure(
    "out-of-memory", "One photo does not fit the device. Use a smaller model, float16 or cpu_offload."
)


@dataclass
class Group:
    """Photos that go through the device together: all of one model size."""

    size: tuple[int, int]
    photos: list[Loaded] = field(default_factory=list)
    pixels: int = 0


def evaluate(group: Group, config: RunConfig, model: Model | None, should_stop: Stop) -> list[Outcome | None]:
    """The device's part. A group that does not fit the device fails as rows, not as a shard.

    So does a photo that makes the computation raise: its neighbours are computed without it. Raises what grey pixels
    raise as well, for then it is no photo's fault, and what ``tasks.shard.boundary.BEYOND_THE_PHOTO`` names.
    """
    if group.size == (0, 0):
        return [None] * len(group.photos)
    try:
        return _evaluate(group, config, model, should_stop)
    except BEYOND_THE_PHOTO:
        raise
    except Exception as error:
        return _one_by_one(group, config, model, should_stop, error)


def _one_by_one(
    group: Group, config: RunConfig, model: Model | None, should_stop: Stop, error: Exception
) -> list[Outcome | None]:
    """Each photo of a group by itself, because together they raised ``error``."""
    _check_computation(group, config, model, should_stop)
    if len(group.photos) == 1:
        group.photos[0].fail(unexpected(error, "while it was computed"))
        return [None]
    outcomes: list[Outcome | None] = []
    for item in group.photos:
        alone: list[Outcome | None] = [None]
        with photo_boundary(item, "while it was computed"):
            alone = _evaluate(Group(group.size, [item]), config, model, should_stop)
        outcomes += alone
    return outcomes


def _check_computation(group: Group, config: RunConfig, model: Model | None, should_stop: Stop) -> None:
    """Raise what a plain grey picture of the group's size raises, without words of its own: the run cannot work."""
    planned = group.photos[0].planned
    grey = Loaded(PlannedPhoto(planned.shard, planned.row, planned.key, planned.uri))
    grey.small = np.full((3, *group.size), 0.5, np.float32)
    if group.photos[0].view is not None:
        grey.view = view_photograph(np.full((*group.size, 3), 128, np.uint8))
    grey.depth = None if group.photos[0].depth is None else np.full(group.size, 0.5, np.float32)
    _evaluate(Group(group.size, [grey]), config, model, should_stop)


def _evaluate(group: Group, config: RunConfig, model: Model | None, should_stop: Stop) -> list[Outcome | None]:
    pixels = torch.from_numpy(np.stack([item.small for item in group.photos if item.small is not None]))
    try:
        config = _with_batch_size(config, model, group.size)
        requests = requests_of(group.photos, config, group.size)
        views = [item.view for item in group.photos if item.view is not None]
        if config.operation == "restore" and model is not None:
            outcomes, seconds = run_restore(model, config, group.photos, pixels, requests, should_stop)
        else:
            outcomes, seconds = _operate(config, model, pixels, views, requests, _prior(group), should_stop)
    except torch.OutOfMemoryError:
        if config.on_oom == "fail":
            raise
        for item in group.photos:
            item.fail(OUT_OF_MEMORY)
        return [None] * len(group.photos)
    share = {stage: value / len(outcomes) for stage, value in seconds.items()}
    for item in group.photos:
        item.seconds.update(share)
    return list(outcomes)


def _prior(group: Group) -> torch.Tensor | None:
    """The group's depth maps (M, 1, h, w) at model size, or None where there are none."""
    maps = [resized(item.depth, group.size) for item in group.photos if item.depth is not None]
    return torch.from_numpy(np.stack(maps))[:, None] if maps else None


def _with_batch_size(config: RunConfig, model: Model | None, size: tuple[int, int]) -> RunConfig:
    """The configuration with the batch size that 0 stands for."""
    if config.batch_size:
        return config
    rows = 1 if model is None else auto_batch_size(model, *size)
    return config.model_copy(update={"batch_size": max(1, rows // inversion_method(config).paths)})


def _operate(
    config: RunConfig,
    model: Model | None,
    pixels: torch.Tensor,
    views: list[HazeView],
    requests: EditRequests,
    prior: torch.Tensor | None,
    should_stop: Stop,
) -> tuple[list[Outcome], dict[str, float]]:
    """The run's operation on a group, padded to what the model takes and cropped back."""
    if should_stop is not None and should_stop():
        raise Cancelled("stopped between two groups")
    if model is None or config.operation == "dehaze":
        return run_dehaze(model, config, pixels, views, prior, should_stop)
    height, width = pixels.shape[-2:]
    operation = run_invert if config.operation == "invert" else run_edit
    outcomes, seconds = operation(model, config, pad(pixels, model), requests.padded(model), should_stop)
    return [
        replace(o, source=o.source[..., :height, :width], result=o.result[..., :height, :width]) for o in outcomes
    ], seconds
