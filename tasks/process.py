"""One shard from planned rows to commit: decode ahead, feed the device, write behind.

Reader threads decode the next group of photos and bring them to the model's size while this thread feeds the device with
one and a writer thread renders, encodes and stores the one before. At most ``PIXELS_IN_FLIGHT`` pixels are held decoded at
each of the four places: gathered, waiting, on the device, being written.
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
import pyarrow as pa
import torch

from fpcore.criteria import Status
from fpcore.invert import Cancelled
from fpcore.masks import SIDE, decode_mask
from fpcore.metrics import psnr, ssim
from fpcore.models.model import Model
from fpcore.models.rows import auto_batch_size
from fpcore.models.sizing import fit_size, pad
from fpcore.render import render
from fpcore.schedule import Schedule
from tasks.companions import resized
from tasks.config import RunConfig
from tasks.edit_options import blend_pair, edit_settings
from tasks.load import Loaded, load
from tasks.models import model_for
from tasks.operations import (
    Outcome,
    Wishes,
    dark_channel_pixels,
    inversion_method,
    run_dark_channel,
    run_dehaze,
    run_edit,
    run_invert,
    seed_of,
)
from tasks.paths import add_paths
from tasks.photo_files import Provenance, encode_photo
from tasks.photo_formats import PhotoError
from tasks.photos import Photo, PhotoLimits, Pixels, model_input
from tasks.progress import PROGRESS, worker
from tasks.store.errors import StoreError
from tasks.store.ledger import Ledger, ShardId
from tasks.store.objects import open_store, read_uri
from tasks.store.schema import STAGES, shard_schema

PIXELS_IN_FLIGHT = 64_000_000
MOST_PHOTOS = 256  # in a group, where the batch size does not say
LOOK_AHEAD = 4  # photos decoded ahead of the group that is being gathered
MOST_PSNR = 100.0  # dB, given to identical pictures
THUMBNAIL = (192, 256)  # height and width of the row's picture where no model sets a size
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
    finish = _Finisher(ledger, config, run_id, model, reference)
    sampled = model if shard == 0 and config.save_steps else None
    done: list[Loaded] = []
    with ThreadPoolExecutor(1, "write") as writer:
        pending: Future[None] | None = None
        for group in _ahead(_groups(rows, config, model)):
            outcomes = _evaluate(group, config, model, should_stop)
            if sampled is not None and add_paths(sampled, config, outcomes):
                sampled = None
            if pending is not None:
                pending.result()
            pending = writer.submit(finish.all, group.photos, outcomes)
            done += group.photos
        if pending is not None:
            pending.result()
    table = _table(done, config, plan, shard)
    footer = _footer(config, model, started)
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
    most = 8 * config.batch_size or MOST_PHOTOS
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
        wishes = _wishes(group.photos, config, group.size)
        outcomes, seconds = _operate(config, model, pixels, wishes, _prior(group), should_stop)
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


def _wishes(photos: list[Loaded], config: RunConfig, size: tuple[int, int]) -> Wishes:
    """Each photo's prompts, seed and settings: its own from the manifest, else the run's."""
    planned = [item.planned for item in photos]
    return Wishes(
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
    wishes: Wishes,
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
        outcomes, seconds = run_dehaze(model, config, padded, None if prior is None else pad(prior, model), should_stop)
    else:
        operation = run_invert if config.operation == "invert" else run_edit
        if wishes.regions is not None:
            wishes = replace(wishes, regions=pad(wishes.regions, model))
        outcomes, seconds = operation(model, config, padded, wishes, should_stop)
    return [
        replace(o, source=o.source[..., :height, :width], result=o.result[..., :height, :width]) for o in outcomes
    ], seconds


@dataclass(frozen=True)
class _Finisher:
    """The writer's part: render at full resolution, encode, store, measure."""

    ledger: Ledger
    config: RunConfig
    run_id: str
    model: Model | None
    reference: str | None

    def all(self, photos: list[Loaded], outcomes: list[Outcome | None]) -> None:
        """Finish each photo; one that cannot be finished fails alone. Frees the pixels."""
        for item, outcome in zip(photos, outcomes, strict=True):
            if outcome is not None and item.photo is not None:
                item.result.update(outcome.columns, strength=outcome.strength)
                if outcome.error is not None:
                    item.fail(*outcome.error)
                else:
                    self._one(item, item.photo, outcome)
            if item.photo is not None:
                item.result.update(height=item.photo.size[0], width=item.photo.size[1])
            item.photo = item.small = item.mask = item.depth = None
            PROGRESS.add("photos")
            PROGRESS.add("failed", int(item.error is not None))

    def _one(self, item: Loaded, photo: Photo, outcome: Outcome) -> None:
        clock = perf_counter()
        if outcome.publish == "nothing":
            return
        if outcome.publish == "model-size":
            pixels = (outcome.result.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            photo = replace(photo, alpha=None)
        elif self.config.dehaze_variant == "dcp":
            pixels = dark_channel_pixels(photo.pixels, outcome.strength, item.mask)
        elif outcome.strength == 0:
            pixels = photo.pixels
        else:
            pixels = render(photo.pixels, outcome.source, outcome.result.clamp(0, 1), outcome.strength, item.mask)
        item.seconds["render"] = perf_counter() - clock
        clock = perf_counter()
        try:
            config = self.config
            data, suffix = encode_photo(
                pixels,
                photo,
                config.image_format,
                quality=config.quality,
                chroma=config.chroma,
                provenance=self._provenance(),
            )
        except PhotoError as error:
            item.fail(error.code, str(error))
            return
        picture = self.ledger.put_picture(item.planned["key"], data, suffix)
        item.result.update(output_path=picture.path, output_sha256=picture.sha256)
        if self.reference is not None:
            item.result.setdefault("metrics", {}).update(self._compare(item, photo, pixels))
        item.seconds["write"] = perf_counter() - clock

    def _provenance(self) -> Provenance | None:
        if not self.config.provenance:
            return None
        digest = self.model.digest if self.model else "dark-channel-prior"
        return Provenance(f"Fixpoint {version('fixpoint-diffusion')}", self.run_id, digest)

    def _compare(self, item: Loaded, photo: Photo, pixels: Pixels) -> dict[str, float]:
        """PSNR and SSIM of input and output against the reference photo of the same key, if there is one."""
        from tasks.photos import decode_photo

        try:
            truth = _as_tensor(decode_photo(read_uri(f"{self.reference}/{item.planned['key']}")).pixels)
        except (StoreError, PhotoError):
            return {}
        measures = {}
        for name, candidate in (("input", _as_tensor(photo.pixels)), ("output", _as_tensor(pixels))):
            if candidate.shape == truth.shape:
                measures[f"psnr_{name}"] = min(float(psnr(candidate, truth)[0]), MOST_PSNR)
                measures[f"ssim_{name}"] = float(ssim(candidate, truth)[0])
        return measures


def _as_tensor(pixels: Pixels) -> torch.Tensor:
    """(H, W, 3) integers to (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max).permute(2, 0, 1)[None]


def _table(done: list[Loaded], config: RunConfig, plan: int, shard: int) -> pa.Table:
    """The shard's rows in the order of the plan."""
    shapes = {tuple(item.result["latent"].shape) for item in done if item.result.get("latent") is not None}
    shape = next(iter(shapes)) if len(shapes) == 1 else None
    done = sorted(done, key=lambda item: int(item.planned["row"]))
    rows = [_row(item, config, plan, shard) for item in done]
    schema = shard_schema(shape)
    columns = [
        _latents(rows, shape) if name == "latent" else pa.array([r.get(name) for r in rows], schema.field(name).type)
        for name in schema.names
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _latents(rows: list[dict[str, Any]], shape: tuple[int, ...] | None) -> pa.Array:
    """The latent column: tensors of one shape, or raw bytes."""
    halves = [None if r.get("latent") is None else r["latent"].half().numpy() for r in rows]
    if shape is None:
        return pa.array([None if x is None else x.tobytes() for x in halves], pa.binary())
    storage = pa.array([None if x is None else x.ravel() for x in halves], pa.list_(pa.float16(), int(np.prod(shape))))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float16(), list(shape)), storage)


def _row(item: Loaded, config: RunConfig, plan: int, shard: int) -> dict[str, Any]:
    planned, result = item.planned, item.result
    code, message = item.error or (None, None)
    latent = result.get("latent")
    return {
        "prompt": planned["prompt"] or config.prompt,
        "target_prompt": planned["target_prompt"] or config.target_prompt,
        **result,
        "plan": plan,
        "shard": shard,
        "row": planned["row"],
        "key": planned["key"],
        "image_id": item.image_id,
        "source_uri": planned["uri"],
        "source_etag": planned["etag"],
        "source_size": item.source_size,
        "status": "failed" if item.error else "ok",
        "error_code": code,
        "error_message": message,
        "verdict": None if item.error else result.get("verdict"),
        "editing_type": planned["editing_type"],
        "latent_shape": None if latent is None else list(latent.shape),
        "metrics": None if "metrics" not in result else list(result["metrics"].items()),
        "timings": {stage: item.seconds.get(stage) for stage in STAGES},
        "seed": seed_of(config, item.image_id, planned["seed"]),
    }


def _footer(config: RunConfig, model: Model | None, started: datetime) -> dict[str, Any]:
    """What made the shard."""
    facts: dict[str, Any] = {
        "configuration": config.identity(),
        "versions": versions(),
        "started_at": started.isoformat(),
        "finished_at": datetime.now(UTC).isoformat(),
        "worker": worker(),
        "model_loads": PROGRESS.get("model_loads"),
        "method": config.method,
        "num_inference_steps": config.num_inference_steps,
        "statuses": [status.label for status in Status],
    }
    if model is not None:
        schedule = Schedule.from_scheduler(model.scheduler, config.num_inference_steps)
        facts |= {
            "model_digest": model.digest,
            "device": str(model.device),
            "timesteps": schedule.timesteps.tolist(),
            "alphas": [float(a) for a in schedule.alpha],
            "rates": [float(r) for r in schedule.rate],
        }
    return facts
