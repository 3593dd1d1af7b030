"""Processor seconds of a large photograph beside the network: each stage of a shard, in one run.

    python -m benchmarks.pixels [--megapixels 12] [--photos 6] [--repeats 3] [--set chroma=4:2:0]

Shards of the default dehazing are processed as a run does, one thread to a library; every stage's own thread is clocked, so
that other work on the machine counts little. "network" is the haze density network; "rest" is what no stage named
here has: starting the shard, threads, Parquet, measures.
Photographs: the free ones of scikit-image and scikit-learn, enlarged and mirrored, with haze rendered and grain.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from benchmarks.pipeline import jpeg
from fpcore.builtin.demo_photographs import clear_photographs
from fpcore.builtin.rendered_haze import render_haze
from tasks.config import RunConfig
from tasks.photos.sources import list_photos
from tasks.shard import dehaze, load, process, publish
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tasks.store.pictures import Pictures

STAGES = (
    ("read", load, "read_planned"),
    ("decode", load, "decode_photo"),
    ("to model size", process, "model_input"),
    ("view", process, "view_photograph"),
    ("network", dehaze, "estimate_haze"),
    ("plan the restoration", dehaze, "plan_restoration"),
    ("rest of the device's part", process, "evaluate"),
    ("render", publish, "restore"),
    ("carry over", publish, "render"),
    ("measure clearness", publish, "told_how_clear"),
    ("encode", publish, "encode_photo"),
    ("store", Pictures, "put"),
    ("commit", Ledger, "commit_shard"),
)  # fmt: skip
ENLARGED = 2


def photograph(pixels: np.ndarray, size: tuple[int, int], seed: int) -> np.ndarray:
    """A hazy one of ``size`` (H, W), enlarged ``ENLARGED`` times, mirrored until it fills it, with a camera's grain."""
    generator = torch.Generator().manual_seed(seed)
    clear = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    hazy = render_haze(clear, torch.tensor([0.35 + 0.1 * (seed % 3)]), generator).image[0].clamp(0, 1)
    small = Image.fromarray((hazy * 255).byte().permute(1, 2, 0).numpy())
    large = np.asarray(small.resize((ENLARGED * small.width, ENLARGED * small.height), Image.Resampling.BICUBIC))
    beyond = [(0, max(0, want - have)) for want, have in zip(size, large.shape[:2], strict=True)]
    full = np.pad(large, [*beyond, (0, 0)], "symmetric")[: size[0], : size[1]]
    grain = np.random.default_rng(seed).normal(0, 2, (*size, 1))
    return np.clip(full + grain, 0, 255).astype(np.uint8)


class Clock:
    """Processor seconds by stage, of the thread that is in it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, clocked."""

        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.thread_time() - began

        return call

    def by_stage(self, whole: float) -> dict[str, float]:
        """Stages that do not overlap, and the rest of ``whole``."""
        stages = {name: self.seconds[name] for name, *_ in STAGES if name in self.seconds}
        stages["rest of the device's part"] -= stages.get("network", 0) + stages.get("plan the restoration", 0)
        return stages | {"rest": whole - sum(stages.values())}


def measure(photos: Path, output: Path, config: RunConfig) -> tuple[dict[str, float], float]:
    """Process all photographs as one shard: processor seconds by stage, and in all."""
    ledger = Ledger(open_store(str(output)))
    ledger.create_run(config.identity())
    ledger.plan_new(list_photos(str(photos)), config.shard_size)
    clock = Clock()
    with ExitStack() as stack:
        for name, where, function in STAGES:
            stack.enter_context(patch.object(where, function, clock.wrapped(name, getattr(where, function))))
        began = time.process_time()
        for shard in ledger.open_shards():
            process.process_shard(str(output), config, *shard)
        whole = time.process_time() - began
    assert ledger.status().failed == 0
    return clock.by_stage(whole), whole


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], help="settings of the run, NAME=VALUE")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    config = RunConfig(**dict(pair.split("=", 1) for pair in chosen.set))
    height = round((chosen.megapixels * 1e6 * 3 / 4) ** 0.5)
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        photos.mkdir()
        free = [pixels for _, pixels in clear_photographs()]
        for i in range(chosen.photos):
            file = jpeg(photograph(free[i % len(free)], (height, height * 4 // 3), i))
            (photos / f"{i}.jpg").write_bytes(file)
        size = sum(path.stat().st_size for path in photos.iterdir()) / chosen.photos / 1e6
        print(f"{chosen.photos} photographs of {chosen.megapixels:g} megapixels, {size:.1f} MB a file")
        measure(photos, Path(folder, "warm"), config)
        runs = [measure(photos, Path(folder, f"{i}"), config) for i in range(chosen.repeats)]
    least = {stage: min(by[stage] for by, _ in runs) / chosen.photos for stage in runs[0][0]}
    for stage, seconds in least.items():
        print(f"{stage:28} {seconds:.3f}")
    whole = min(whole for _, whole in runs) / chosen.photos
    print(f"{'in all':28} {whole:.3f}")
    print(f"{'beside the network':28} {whole - least['network']:.3f}")


if __name__ == "__main__":
    main()
