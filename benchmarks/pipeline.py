"""Whole runs: what each stage around the network can do, what all of it costs, and how it grows."""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from benchmarks.job import Job, photographs, warm
from benchmarks.roofline import Meter, device_busy
from fpcore.color_transfer import render
from tasks.config import RunConfig
from tasks.photos.decode import decode_photo, model_input
from tasks.photos.encode import encode_photo
from tasks.photos.sources import list_photos
from tasks.shard.process import DEVICE, process_shard
from tasks.store import parquet
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store

PHOTO = (480, 640)
SQUARE = (1024, 1024)
"""Photographs for Stable Diffusion, which sees them as 512 × 512: one shape of the compiled network."""
LARGE = (3000, 4000)
GROWTH = (1, 10, 100, 1000)
KEYS = (1, 100, 10_000, 100_000, 1_000_000)


class NoNetwork:
    """A UNet that costs nothing and predicts zero: what remains is everything around the network."""

    def __init__(self, unet: Any) -> None:
        self.config, self.dtype = unet.config, unet.dtype

    def __call__(self, z: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        """Zeros of z's shape."""
        del args, kwargs
        return (torch.zeros_like(z),)


def jpeg(pixels: np.ndarray) -> bytes:
    """A photograph's file at camera quality."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def picture(hazy: Tensor, size: tuple[int, int]) -> np.ndarray:
    """(3, h, w) in [0, 1] enlarged to (H, W, 3) uint8, with grain, so that files are as large as a camera's."""
    small = (hazy * 255).byte().permute(1, 2, 0).numpy()
    large = np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC), np.int16)
    grain = np.random.default_rng(0).integers(-6, 7, size, np.int16)[..., None]
    return np.clip(large + grain, 0, 255).astype(np.uint8)


def rate(work: Callable[[], Any], least: float = 1.0) -> float:
    """Calls a second, one thread, over at least ``least`` seconds."""
    work()
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < least:
        work()
        calls += 1
    return calls / (time.perf_counter() - began)


def stages(job: Job) -> Iterator[dict[str, Any]]:
    """(d) Photos a second of each stage for one thread, at 0.3 and at 12 megapixels; then Parquet and S3."""
    for size in (PHOTO, LARGE):
        pixels = picture(job.hazy[0], size)
        data = jpeg(pixels)
        photo, result = decode_photo(data), (job.hazy[0] * 0.9).clamp(0, 1)
        yield {
            "megapixels": size[0] * size[1] / 1e6, "file_mb": len(data) / 1e6,
            "decode_per_s": rate(lambda data=data: decode_photo(data)),
            "to_model_size_per_s": rate(lambda photo=photo: model_input(photo, job.model.image_size)),
            "render_per_s": rate(lambda photo=photo, result=result: render(photo.pixels, job.hazy[0], result)),
            "encode_per_s": rate(lambda pixels=pixels, photo=photo: encode_photo(pixels, photo)),
        }  # fmt: skip
    yield from _storage(job)


def _storage(job: Job) -> Iterator[dict[str, Any]]:
    """Rows a second into and out of a shard's Parquet, and MB/s of the store, on disk and on a real S3 server."""
    from tests.servers import run_seaweedfs

    with tempfile.TemporaryDirectory() as folder, run_seaweedfs(_made(folder, "server")) as server:
        run(job, folder, "out", 32, NoNetwork(job.model.unet))
        shard = next(Path(folder, "out", "shards").iterdir()).read_bytes()
        table = pq.read_table(BytesIO(shard))
        yield {
            "parquet_rows_encoded_per_s": 32 * rate(lambda: parquet.encode(table, {})),
            "parquet_rows_read_per_s": 32 * rate(lambda: pq.read_table(BytesIO(shard))),
            "parquet_kb_a_row": len(shard) / 32e3,
        }
        body = os.urandom(4_000_000)
        with patch.dict(os.environ, server.env):
            for name, root in (("disk", f"{folder}/store"), ("s3", server.make_bucket("benchmark"))):
                store, numbers = open_store(root), iter(range(10**9))
                put = rate(lambda store=store, numbers=numbers: store.put_new(f"{next(numbers)}", body))
                small = rate(lambda store=store, numbers=numbers: store.put_new(f"{next(numbers)}", body[:40_000]))
                get = rate(lambda store=store: store.get("0"))
                yield {"store": name, "put_mb_s": 4 * put, "get_mb_s": 4 * get, "puts_of_40_kb_per_s": small}


def _made(folder: str, name: str) -> Path:
    path = Path(folder, name)
    path.mkdir()
    return path


def photo_size(job: Job) -> tuple[int, int]:
    """Height and width of the files that runs are made of."""
    return PHOTO if job.model.family == "builtin" else SQUARE


def write_photos(job: Job, folder: Path, count: int) -> None:
    """``count`` different JPEG files."""
    folder.mkdir(parents=True)
    size = photo_size(job)
    ready = [picture(job.hazy[i % len(job.hazy)], size) for i in range(min(count, len(job.hazy), 16))]
    for i in range(count):
        (folder / f"{i:06d}.jpg").write_bytes(jpeg(np.roll(ready[i % len(ready)], i, axis=1)))


def run(job: Job, folder: str, output: str, count: int, unet: Any, shard_size: int = 64) -> float:
    """Plan ``count`` photos and process and commit all their shards with ``unet``: seconds of the processing."""
    photos = Path(folder, f"photos-{count}")
    if not photos.exists():
        write_photos(job, photos, count)
    config = RunConfig(
        num_inference_steps=job.steps,
        batch_size=job.batch_size,
        shard_size=shard_size,
        dehaze_variant="regenerate",
    )
    ledger = Ledger(open_store(str(Path(folder, output))))
    ledger.create_run(config.identity())
    ledger.plan_new(list_photos(str(photos)), config.shard_size)
    model = replace(job.model, unet=unet)
    began = time.perf_counter()
    with patch("tasks.shard.process.model_for", lambda config: model):
        with ThreadPoolExecutor(2) as threads:  # as the thread runner does
            list(threads.map(lambda s: process_shard(str(Path(folder, output)), config, *s), ledger.open_shards()))
    seconds = time.perf_counter() - began
    committed = ledger.status()
    assert (committed.ok, committed.failed) == (count, 0)
    return seconds


def whole(job: Job) -> Iterator[dict[str, Any]]:
    """(d) From files to committed rows and pictures, with the network and with one that costs nothing."""
    count = job.files
    with tempfile.TemporaryDirectory() as folder:
        run(job, folder, "warm", 2, NoNetwork(job.model.unet))
        DEVICE.submit(warm, job, job.batch_size).result()  # CUDA graphs belong to a thread
        meter = Meter(job.model.unet)
        used = time.process_time()
        with device_busy(job.model.device) as busy:
            wall = run(job, folder, "real", count, meter)
        used = time.process_time() - used
        row = {
            "photos": count, "megapixels": np.prod(photo_size(job)) / 1e6, "photos_per_s": count / wall,
            "network_share_of_wall": meter.seconds() / wall, "device_busy": busy(), "processor_s_a_wall_s": used / wall,
            "rows_a_photo": meter.rows / count,
        }  # fmt: skip
        if job.model.family == "builtin":  # else the VAE would be most of what is left
            nothing = run(job, folder, "nothing", count, NoNetwork(job.model.unet))
            row |= {"photos_per_s_without_network": count / nothing, "everything_else_over_wall": nothing / wall}
        yield row


def growth(job: Job) -> Iterator[dict[str, Any]]:
    """(e) Photos and planned keys against time and peak memory, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    for work, sizes in ((_grow_photos, GROWTH), (_grow_keys, KEYS)):
        for size in sizes:
            with context.Pool(1) as pool:
                yield pool.apply(work, (size, job.steps, job.batch_size))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _grow_photos(count: int, steps: int, batch_size: int) -> dict[str, Any]:
    from fpcore.models.load import load_model

    torch.set_num_threads(1)
    model = load_model("builtin:haze")
    hazy, clear = photographs(16, model.image_size)
    job = Job(model, model, hazy, clear, steps, batch_size, 1)
    with tempfile.TemporaryDirectory() as folder:
        write_photos(job, Path(folder, f"photos-{count}"), count)
        before = _peak_mb()
        seconds = run(job, folder, "out", count, NoNetwork(model.unet))
    return {
        "photos": count, "network": "none", "seconds": seconds, "ms_a_photo": 1000 * seconds / count,
        "peak_mb": _peak_mb(), "peak_mb_before": before,
    }  # fmt: skip


def _grow_keys(count: int, steps: int, batch_size: int) -> dict[str, Any]:
    del steps, batch_size
    with tempfile.TemporaryDirectory() as folder:
        ledger, before = Ledger(open_store(folder)), _peak_mb()
        entries = (
            {"key": f"a/{i:09d}.jpg", "uri": f"s3://b/a/{i:09d}.jpg", "size": i, "etag": f"{i:x}"} for i in range(count)
        )
        began = time.perf_counter()
        ledger.plan_new(entries, 64)
        planned = time.perf_counter() - began
        began = time.perf_counter()
        shards = len(ledger.open_shards())
        listed = time.perf_counter() - began
        again = (
            {"key": f"a/{i:09d}.jpg", "uri": f"s3://b/a/{i:09d}.jpg", "size": i, "etag": f"{i:x}"} for i in range(count)
        )
        began = time.perf_counter()
        assert ledger.plan_new(again, 64) == []
        replanned = time.perf_counter() - began
    return {
        "keys": count, "shards": shards, "plan_s": planned, "open_shards_s": listed, "plan_again_s": replanned,
        "peak_mb": _peak_mb(), "peak_mb_before": before,
    }  # fmt: skip
