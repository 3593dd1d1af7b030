"""One shard from planned rows to commit: decode ahead, feed the device, write behind.

Reader threads decode the next group of photos and bring them to the model's size while the device works on one and a writer
thread renders, encodes and stores the one before. At most ``PIXELS_IN_FLIGHT`` pixels of a shard are held decoded at each of
the four places: gathered, waiting, on the device, being written.

Two shards may be under way in one process: the device works on one group at a time, in a thread of its own, so that the
first photos of a shard are read and the last of the one before written and committed while it is busy.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch

from fpcore.dehazing.haze_density import darkest_value
from fpcore.evaluation.rle_masks import SIDE, decode_mask
from fpcore.inversion.invert import Cancelled
from fpcore.models.model import Model
from fpcore.models.rows import auto_batch_size
from fpcore.models.sizing import fit_size, pad
from tasks.config import RunConfig
from tasks.edit_settings import blend_pair, edit_settings
from tasks.photos.decode import PhotoLimits, model_input
from tasks.photos.sidecars import resized
from tasks.shard.load import Loaded, load
from tasks.shard.model_cache import model_for
from tasks.shard.operations import (
    EditRequests,
    Outcome,
    inversion_method,
    run_dark_channel,
    run_dehaze,
    run_edit,
    run_invert,
    seed_of,
)
from tasks.shard.progress import PROGRESS, worker
from tasks.shard.publish import Finisher
from tasks.shard.rows import shard_footer, shard_table
from tasks.shard.trajectories import add_paths
from tasks.store.ledger import Ledger, ShardId
from tasks.store.objects import open_store

PIXELS_IN_FLIGHT = 64_000_000
MAX_PHOTOS = 256  # in a group, where the batch size does not say
LOOK_AHEAD = 4  # photos decoded ahead of the group that is being gathered
THUMBNAIL = (192, 256)  # height and width of the row's picture where no model sets a size
DEVICE = ThreadPoolExecutor(1, "device")
"""The thread that calls networks. A model keeps attention maps while it computes, and CUDA graphs belong to a thread."""
Stop = Callable[[], bool] | None
Item = TypeVar("Item")


@dataclass
class Group:
    """Photos that go through the device together: all of one model size."""

    size: tuple[int, int]
    photos: list[Loaded] = field(default_factory=list)
    pixels: int = 0


def versions() -> dict[str, str]:
    """Versions of what decides the results."""
    names = ("fixpoint-diffusion", "torch", "diffusers", "transformers", "pillow", "numpy", "pyarrow", "prefect")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def process_shard(
    output: str, config: RunConfig, plan: int, shard: int, *, reference: str | None = None, should_stop: Stop = None
) -> dict[str, Any]:
    """Process and commit one shard; a small summary comes back.

    ``reference``: a folder of ground truth under the same keys; PSNR and SSIM before and after go into ``metrics``.
    Raises StoreError (the shard can be tried again), ``Cancelled``, or ValueError for a configuration that cannot work.
    """
    started, clock = datetime.now(UTC), perf_counter()
    ledger = Ledger(open_store(output))
    if ShardId(plan, shard).key in {s.key for s in ledger.committed()}:
        return {"plan": plan, "shard": shard, "won": False, "photos": 0}
    rows = ledger.read_plan_shard(plan, shard).to_pylist()
    model = None if config.operation == "dehaze" and config.dehaze_variant == "dcp" else model_for(config)
    run_id = ledger.run().configuration_digest[:16]
    finish = Finisher(ledger, config, run_id, model, reference)
    sampled = model if shard == 0 and config.save_steps else None
    done: list[Loaded] = []
    with ThreadPoolExecutor(1, "write") as writer:
        pending: Future[None] | None = None
        for group in _ahead(_groups(rows, config, model)):
            outcomes = DEVICE.submit(_evaluate, group, config, model, should_stop).result()
            if sampled is not None and DEVICE.submit(add_paths, sampled, config, outcomes).result():
                sampled = None
            if pending is not None:
                pending.result()
            pending = writer.submit(finish.all, group.photos, outcomes)
            done += group.photos
        if pending is not None:
            pending.result()
    table = shard_table(done, config, plan, shard)
    footer = shard_footer(config, model, versions(), started)
    outcome = ledger.commit_shard(plan, shard, table, footer)
    failed = sum(item.error is not None for item in done)
    return {
        "plan": plan,
        "shard": shard,
        "won": outcome.won,
        "photos": len(done),
        "failed": failed,
        "nfe": sum(item.result.get("nfe") or 0 for item in done),
        "seconds": round(perf_counter() - clock, 3),
        "worker": worker(),
        "model_loads": PROGRESS.get("model_loads"),
    }


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items; the next one is being made while the consumer works on this one."""
    with ThreadPoolExecutor(1, "gather") as maker:
        coming = maker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = maker.submit(next, items, None)
            yield item


def _prepared(row: dict[str, Any], config: RunConfig, model: Model | None) -> Loaded:
    """A photo decoded and at the model's size."""
    limits = PhotoLimits(max_pixels=config.max_pixels)
    loaded = load(row, limits, masks=config.mask_folder, depths=config.depth_folder)
    if loaded.photo is not None:
        clock = perf_counter()
        height, width = loaded.photo.size
        loaded.small = model_input(loaded.photo, THUMBNAIL if model is None else fit_size(width, height, model)[::-1])
        if config.operation == "dehaze":
            loaded.darkest = darkest_value(loaded.photo.pixels, loaded.photo.alpha)
        loaded.seconds["read"] += perf_counter() - clock
    return loaded


def _prefetched(rows: list[dict[str, Any]], config: RunConfig, model: Model | None) -> Iterator[Loaded]:
    """Prepared photos in order, a few ahead of the consumer."""
    with ThreadPoolExecutor(2, "read") as readers:
        waiting: list[Future[Loaded]] = []
        for row in rows:
            waiting.append(readers.submit(_prepared, row, config, model))
            if len(waiting) > LOOK_AHEAD:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _groups(rows: list[dict[str, Any]], config: RunConfig, model: Model | None) -> Iterator[Group]:
    """Photos gathered by model size, each group as large as memory allows; failures ride in a group of their own."""
    gathering: dict[tuple[int, int], Group] = {}
    most = 8 * config.batch_size or MAX_PHOTOS
    for loaded in _prefetched(rows, config, model):
        size = (0, 0) if loaded.small is None else (loaded.small.shape[1], loaded.small.shape[2])
        group = gathering.setdefault(size, Group(size))
        group.photos.append(loaded)
        group.pixels += 0 if loaded.photo is None else loaded.photo.pixels.size // 3
        total = sum(g.pixels for g in gathering.values())
        if total >= PIXELS_IN_FLIGHT or len(group.photos) >= most:
            largest = max(gathering, key=lambda s: gathering[s].pixels) if total >= PIXELS_IN_FLIGHT else size
            yield gathering.pop(largest)
    yield from gathering.values()


def _evaluate(group: Group, config: RunConfig, model: Model | None, should_stop: Stop) -> list[Outcome | None]:
    """The device's part. A group that does not fit the device fails as rows, not as a shard."""
    if group.size == (0, 0):
        return [None] * len(group.photos)
    pixels = torch.from_numpy(np.stack([item.small for item in group.photos if item.small is not None]))
    try:
        config = _with_batch_size(config, model, group.size)
        requests = _requests(group.photos, config, group.size)
        darkest = torch.tensor([item.darkest for item in group.photos if item.small is not None])
        outcomes, seconds = _operate(config, model, pixels, darkest, requests, _prior(group), should_stop)
    except torch.OutOfMemoryError:
        if config.on_oom == "fail":
            raise
        for item in group.photos:
            item.fail(
                "out-of-memory", "One photo does not fit the device. Use a smaller model, float16 or cpu_offload."
            )
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


def _requests(photos: list[Loaded], config: RunConfig, size: tuple[int, int]) -> EditRequests:
    """Each photo's prompts, seed and settings: its own from the manifest, else the run's."""
    planned = [item.planned for item in photos]
    return EditRequests(
        [row["prompt"] or config.prompt or "" for row in planned],
        [row["target_prompt"] or config.target_prompt for row in planned],
        [blend_pair(row["blended_word"] or config.blended_word) for row in planned],
        [seed_of(config, item.image_id, item.planned["seed"]) for item in photos],
        [edit_settings(config, row["edit_settings"]) for row in planned],
        _regions([row["mask"] or config.mask for row in planned], size) if config.masks else None,
    )


def _regions(masks: Sequence[Sequence[int] | None], size: tuple[int, int]) -> torch.Tensor | None:
    """(M, 1, H, W): 1 where a photo's mask lets it change, everywhere for a photo without one. None if none has one."""
    if not any(mask is not None for mask in masks):
        return None
    pictures = torch.ones(len(masks), 1, SIDE, SIDE)
    for picture, mask in zip(pictures, masks, strict=True):
        if mask is not None:
            picture[0] = decode_mask(mask, border=False)
    return torch.nn.functional.adaptive_max_pool2d(pictures, size)


def _operate(
    config: RunConfig,
    model: Model | None,
    pixels: torch.Tensor,
    darkest: torch.Tensor,
    requests: EditRequests,
    prior: torch.Tensor | None,
    should_stop: Stop,
) -> tuple[list[Outcome], dict[str, float]]:
    """The run's operation on a group, padded to what the model takes and cropped back."""
    if model is None:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped between two groups")
        return run_dark_channel(config, pixels)
    height, width = pixels.shape[-2:]
    padded = pad(pixels, model)
    if config.operation == "dehaze":
        prior = None if prior is None else pad(prior, model)
        outcomes, seconds = run_dehaze(model, config, padded, darkest, prior, should_stop)
    else:
        operation = run_invert if config.operation == "invert" else run_edit
        if requests.regions is not None:
            requests = replace(requests, regions=pad(requests.regions, model))
        outcomes, seconds = operation(model, config, padded, requests, should_stop)
    return [
        replace(o, source=o.source[..., :height, :width], result=o.result[..., :height, :width]) for o in outcomes
    ], seconds
