"""What Prefect costs a run: wall time beyond the shards' own, over many shards that do next to nothing.

python -m benchmarks.orchestration [--shards 200] [--runner thread]

A real server (``fixpoint server``, SQLite) in a process of its own. A shard is one picture of 16 pixels without a model:
read, dark channel prior, encode, store, commit; its own seconds are in its summary, and everything else is
orchestration: planning, task runs, the window, artifacts, log lines. Server and run share the machine's processors.
The share at one minute a shard is extrapolated: overhead a shard divided by 60 s.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tests.prefect_server import run_prefect_server


def write_pictures(folder: Path, count: int) -> None:
    """``count`` different pictures of 16 × 16 pixels."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:05d}.png")


def measure(folder: Path, shards: int, runner: str, workers: int) -> dict[str, object]:
    """One run of so many shards: seconds of the flow, of the shards, and what orchestration adds to each."""
    from flows.artifacts import Board
    from flows.dehaze import dehaze
    from flows.execution import Execution
    from tasks.config import RunConfig

    own, original = [0.0], Board.add

    def add(board: Board, shard: dict[str, object]) -> None:
        own[0] += float(str(shard.get("seconds", 0)))
        original(board, shard)

    Board.add = add  # type: ignore[method-assign]
    write_pictures(folder / "in", shards)
    config = RunConfig(dehaze_variant="dcp", shard_size=1)
    execution = Execution(runner=runner, workers=workers, report=False)  # type: ignore[arg-type]
    started = time.perf_counter()
    summary = dehaze(str(folder / "in"), str(folder / "out"), config, execution)
    wall = time.perf_counter() - started
    assert summary["ok"] == shards, summary
    overhead = (wall - own[0] / workers) / shards * workers
    return {
        "runner": runner,
        "workers": workers,
        "shards": shards,
        "wall_seconds": round(wall, 1),
        "shard_seconds": round(own[0], 1),
        "overhead_a_shard": round(overhead, 3),
        "percent_at_one_minute": round(100 * overhead / 60, 2),
    }


def main() -> None:
    """Entry point: prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--runner", choices=("thread", "process"), default="thread")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(PREFECT_HOME=str(folder / "home"), PREFECT_LOGGING_LEVEL="WARNING")
        (folder / "home").mkdir()
        with run_prefect_server(folder / "home") as url:
            os.environ["PREFECT_API_URL"] = url
            print(json.dumps(measure(folder, arguments.shards, arguments.runner, arguments.workers)))


if __name__ == "__main__":
    main()
