"""One shard from planned rows to commit: decode ahead, feed the device, write behind.

Reader threads decode the next group of photos and bring them to the model's size while the device works on one and a writer
thread renders, encodes and stores the one before. At most ``PIXELS_IN_FLIGHT`` pixels of a shard are held decoded at each of
the four places: gathered, waiting, on the device, being written.

Two shards may be under way in one process: the device works on one group at a time, in a thread of its own, so that the
first photos of a shard are read and the last of the one before written and committed while it is busy.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from time import perf_counter
from typing import TypedDict, TypeVar

from fpcore.dehazing.haze_estimate import view_photograph
from fpcore.models.model import Model
from fpcore.models.onnx_runtime import is_installed
from fpcore.models.sizing import fit_size
from tasks.config import RunConfig, RunOrigin
from tasks.photos.decode import Photo, PhotoLimits, model_input
from tasks.shard.boundary import photo_boundary
from tasks.shard.cancellation import Stop
from tasks.shard.load import load
from tasks.shard.loaded import Loaded
from tasks.shard.model_cache import model_for
from tasks.shard.operate import Group, evaluate
from tasks.shard.progress import PROGRESS, worker
from tasks.shard.publish import Finisher
from tasks.shard.restore import refusal, working_size
from tasks.shard.rows import ShardOrigin, shard_footer, shard_table
from tasks.shard.trajectories import add_paths
from tasks.store.access import SOURCE_ONLY, Access
from tasks.store.facts import ShardFacts, Totals
from tasks.store.ledger import Ledger, ShardId
from tasks.store.objects import open_store
from tasks.store.planned import PlannedPhoto, planned_photos

PIXELS_IN_FLIGHT = 64_000_000
MAX_PHOTOS = 256  # in a group, where the batch size does not say
ENOUGH = {"cuda": 64, "cpu": 16}  # photos of a group that fill the device's batches; by reading for cuda
LOOK_AHEAD = 4  # photos decoded ahead of the group that is being gathered
THUMBNAIL = (192, 256)  # height and width of the row's picture where neither a model nor an estimate sets a size
DEVICE = ThreadPoolExecutor(1, "device")
"""The thread that calls networks. A model keeps attention maps while it computes, and CUDA graphs belong to a thread."""
Item = TypeVar("Item")


class ShardSummary(TypedDict):
    """What Prefect carries of a processed shard. ``won``: whether this run's rows are the ones committed; else all are 0."""

    plan: int
    shard: int
    won: bool
    photos: int
    failed: int
    codes: dict[str, int]
    nfe: int
    seconds: float
    worker: str
    model_loads: int


def versions() -> dict[str, str]:
    """Versions of what decides the results."""
    names = ["fixpoint-diffusion", "torch", "diffusers", "transformers", "pillow", "numpy", "pyarrow", "prefect"]
    names += ["onnxruntime"] if is_installed() else []
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def process_shard(
    output: str,
    config: RunConfig,
    plan: int,
    shard: int,
    *,
    reference: str | None = None,
    run: RunOrigin = RunOrigin(),
    access: Access = SOURCE_ONLY,
    should_stop: Stop = None,
) -> ShardSummary:
    """Process and commit one shard for a run; a small summary comes back.

    ``reference``: a folder of ground truth under the same keys; PSNR and SSIM before and after go into ``metrics``.
    ``access``: what may be read of the web.
    Raises StoreError (the shard can be tried again), ``Cancelled``, or ValueError for a configuration that cannot work.
    """
    started, clock = datetime.now(UTC), perf_counter()
    ledger = _ledger(output, run.run_id) if run.run_id else Ledger(open_store(output))
    if ledger.is_committed(ShardId(plan, shard)):
        return _standing(ShardId(plan, shard), ledger.facts(ShardId(plan, shard)), run)
    rows = planned_photos(ledger.read_plan_shard(plan, shard))
    model = model_for(config) if config.needs_model else None
    run_id = ledger.run().configuration_digest[:16]
    finish = Finisher(ledger, plan, config, run_id, model, reference)
    sampled = model if shard == 0 and config.save_steps and config.operation != "restore" else None
    done: list[Loaded] = []
    with ThreadPoolExecutor(1, "write") as writer:
        pending: Future[None] | None = None
        for group in _ahead(_groups(rows, config, model, access)):
            outcomes = DEVICE.submit(evaluate, group, config, model, should_stop).result()
            if sampled is not None and DEVICE.submit(add_paths, sampled, config, outcomes).result():
                sampled = None
            if pending is not None:
                pending.result()
            pending = writer.submit(finish.all, group.photos, outcomes)
            done += group.photos
        if pending is not None:
            pending.result()
    origin = ShardOrigin(plan, shard, run, model.digest if model else None)
    footer = shard_footer(config, model, versions(), started, run)
    outcome = ledger.commit_shard(plan, shard, shard_table(done, config, origin), footer)
    if not outcome.won:
        return _standing(ShardId(plan, shard), outcome.facts, run)
    return _summary(ShardId(plan, shard), outcome.facts.totals, won=True, seconds=perf_counter() - clock)


@lru_cache(maxsize=2)
def _ledger(output: str, run_id: str) -> Ledger:
    """The ledger that the shards of one run share in a process: it reads a plan once for all of them."""
    del run_id
    return Ledger(open_store(output))


def _standing(shard: ShardId, facts: ShardFacts, run: RunOrigin) -> ShardSummary:
    """Of a shard that another attempt committed: its rows count if that was an attempt of this very run."""
    ours = run.run_id is not None and facts.run_id == run.run_id
    return _summary(shard, facts.totals if ours else Totals(), won=ours, seconds=0.0)


def _summary(shard: ShardId, totals: Totals, *, won: bool, seconds: float) -> ShardSummary:
    return {
        "plan": shard.plan,
        "shard": shard.shard,
        "won": won,
        "photos": totals.rows,
        "failed": totals.failed,
        "codes": totals.codes,
        "nfe": totals.nfe,
        "seconds": round(seconds, 3),
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


def _prepared(row: PlannedPhoto, config: RunConfig, model: Model | None, access: Access) -> Loaded:
    """A photo decoded and at the model's size."""
    limits, seconds = PhotoLimits(max_pixels=config.max_pixels), config.photo_timeout
    loaded = load(row, limits, access=access, masks=config.mask_folder, depths=config.depth_folder, seconds=seconds)
    clock = perf_counter()
    with photo_boundary(loaded, "while it was brought to the model's size"):
        if loaded.photo is not None and (unfit := refusal(config, loaded.photo.size)) is not None:
            loaded.fail(unfit)
        elif loaded.photo is not None:
            _shrink(loaded, loaded.photo, config, model)
            loaded.seconds["read"] += perf_counter() - clock
    return loaded


def _shrink(loaded: Loaded, photo: Photo, config: RunConfig, model: Model | None) -> None:
    """What is looked at of a photo: a view of its haze, and itself at the size at which it goes to the device."""
    if config.operation == "dehaze" and config.dehaze_variant != "dcp":
        loaded.view = view_photograph(photo.pixels, photo.alpha)
    if model is None and loaded.view is not None:
        loaded.small = loaded.view.picture.numpy()  # nothing else of it is asked about
    else:
        loaded.small = model_input(photo, _model_size(config, model, photo.size))


def _model_size(config: RunConfig, model: Model | None, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which a photo of ``size`` goes to the device."""
    if model is None:
        return THUMBNAIL
    return working_size(config, model, size) if config.operation == "restore" else fit_size(*size[::-1], model)[::-1]


def _pixels_held(loaded: Loaded, config: RunConfig) -> int:
    """What a decoded photo counts for, in pixels: enlarged ones are held several times over, as floats."""
    own = loaded.pixels_held
    return own * 4 * config.scale**2 if (config.operation, config.task) == ("restore", "super-resolution") else own


def _prefetched(rows: list[PlannedPhoto], config: RunConfig, model: Model | None, access: Access) -> Iterator[Loaded]:
    """Prepared photos in order, a few ahead of the consumer."""
    with ThreadPoolExecutor(2, "read") as readers:
        waiting: list[Future[Loaded]] = []
        for row in rows:
            waiting.append(readers.submit(_prepared, row, config, model, access))
            if len(waiting) > LOOK_AHEAD:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _enough(config: RunConfig, model: Model | None) -> int:
    """Photos of a group that fill the device's batches; large photos then wait as files, which are decoded once more."""
    if model is None or config.operation == "restore":  # which asks for the pixels meanwhile
        return 0
    return ENOUGH["cuda" if model.device.type == "cuda" else "cpu"]


def _groups(rows: list[PlannedPhoto], config: RunConfig, model: Model | None, access: Access) -> Iterator[Group]:
    """Photos gathered by model size, each group as large as memory allows; failures ride in a group of their own."""
    gathering: dict[tuple[int, int], Group] = {}
    most = 8 * config.batch_size or MAX_PHOTOS
    for loaded in _prefetched(rows, config, model, access):
        size = (0, 0) if loaded.small is None else (loaded.small.shape[1], loaded.small.shape[2])
        group = gathering.setdefault(size, Group(size))
        group.photos.append(loaded)
        group.pixels += _pixels_held(loaded, config)
        total = sum(g.pixels for g in gathering.values())
        if total >= PIXELS_IN_FLIGHT and len(group.photos) < _enough(config, model):
            for waiting in gathering.values():
                for item in waiting.photos:
                    item.stow()
                waiting.pixels = sum(_pixels_held(item, config) for item in waiting.photos)
            total = sum(g.pixels for g in gathering.values())
        if total >= PIXELS_IN_FLIGHT or len(group.photos) >= most:
            largest = max(gathering, key=lambda s: gathering[s].pixels) if total >= PIXELS_IN_FLIGHT else size
            yield gathering.pop(largest)
    yield from gathering.values()
