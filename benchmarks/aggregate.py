"""Build a synthetic ledger and measure `aggregate`: wall time, peak memory, size of the tables.

    python -m benchmarks.aggregate --photos 1000000 --steps 25 --iterations 2

The ledger has real shard files in the real schema (latents and pictures included, so that not reading them counts);
shards differ in keys and numbers. Two threads at most are used for computing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.store.parquet import encode
from tasks.store.schema import SCHEMA_VERSION, STAGES, STEP, shard_schema

PER_SHARD = 1000


def build(root: Path, photos: int, steps: int, iterations: int) -> None:
    """Write the ledger's shards."""
    (root / "shards").mkdir(parents=True)
    (root / "run.json").write_text(json.dumps({"configuration": {"task": "dehaze"}, "versions": {}}))
    generator = np.random.default_rng(9)
    for shard in range(-(-photos // PER_SHARD)):
        count = min(PER_SHARD, photos - shard * PER_SHARD)
        write_shard(root, shard, count, steps, iterations, generator)


def write_shard(
    root: Path, shard: int, count: int, steps: int, iterations: int, generator: np.random.Generator
) -> None:
    """One shard of ``count`` photos with ``steps`` × ``iterations`` entries each."""
    keys = [f"folder/{shard:06d}-{row:05d}.jpg" for row in range(count)]
    latent = generator.normal(size=(count, 64)).astype(np.float16)
    columns: dict[str, object] = {
        "plan": np.ones(count, np.int32),
        "shard": np.full(count, shard, np.int32),
        "row": np.arange(count, dtype=np.int32),
        "key": keys,
        "image_id": [hashlib.sha256(key.encode()).hexdigest() for key in keys],
        "source_uri": [f"s3://bucket/{key}" for key in keys],
        "status": ["ok"] * count,
        "verdict": ["cleared"] * count,
        "output_path": [f"images/{key}" for key in keys],
        "inversion_status": ["converged"] * count,
        "latent": pa.FixedShapeTensorArray.from_numpy_ndarray(latent.reshape(count, 4, 4, 4)),
        "output": [{"bytes": bytes(500), "path": None}] * count,
        "steps": entries(count, steps, iterations, generator),
        "nfe": np.full(count, steps * iterations, np.int32),
        "nfe_inversion": np.full(count, steps * iterations, np.int32),
        "metrics": [[("dark_channel_before", 0.5), ("dark_channel_after", 0.25)]] * count,
        "timings": pa.StructArray.from_arrays(
            [pa.array(generator.gamma(4, 0.1, count), pa.float32()) for _ in STAGES], list(STAGES)
        ),
    }
    schema = shard_schema((4, 4, 4))
    arrays = [
        pa.array(columns[field.name], field.type)
        if isinstance(columns.get(field.name), list)
        else columns.get(field.name, pa.nulls(count, field.type))
        for field in schema
    ]
    footer = {"schema_version": SCHEMA_VERSION, "started_at": 60.0 * shard, "finished_at": 60.0 * shard + 59}
    (root / "shards" / f"000001-{shard:05d}.parquet").write_bytes(encode(pa.table(arrays, schema=schema), footer))


def entries(count: int, steps: int, iterations: int, generator: np.random.Generator) -> pa.ListArray:
    """``steps`` of ``count`` photos: a decaying residual."""
    size = steps * iterations
    step = np.tile(np.repeat(np.arange(steps, dtype=np.int32), iterations), count)
    iteration = np.tile(np.arange(1, iterations + 1, dtype=np.int32), count * steps)
    intra = (0.1 * 0.2**iteration * generator.lognormal(0, 0.5, count * size)).astype(np.float32)
    columns = [step, step * 40 + 1, iteration, intra, pa.nulls(intra.size, pa.float32()), intra / 4, intra * 0 + 0.2]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, STEP, strict=True)]
    values = pa.StructArray.from_arrays(arrays, fields=list(STEP))
    return pa.ListArray.from_arrays(np.arange(0, (count + 1) * size, size, dtype=np.int32), values)


MEASURE = """
import json, resource, sys, time
from tasks.analytics.aggregate import aggregate
done = aggregate([sys.argv[1]], sys.argv[2])
again = aggregate([sys.argv[1]], sys.argv[2])
print(json.dumps({"images": done.images_new, "steps": done.steps_new, "seconds": round(done.seconds, 2),
    "seconds_again": round(again.seconds, 3), "cpu_seconds": round(time.process_time(), 1),
    "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}))
"""


def measure(ledger: Path, tables: Path) -> dict[str, float]:
    """Run `aggregate` twice in a fresh process: seconds of the first and of the idle second call, CPU time, memory."""
    environment = os.environ | {"OMP_NUM_THREADS": "2", "ARROW_NUM_THREADS": "2"}
    command = [sys.executable, "-c", MEASURE, str(ledger), str(tables)]
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout)
    found["tables_mb"] = round(sum(file.stat().st_size for file in tables.rglob("*.parquet")) / 2**20)
    return found


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--iterations", type=int, default=2)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        build(Path(folder) / "ledger", chosen.photos, chosen.steps, chosen.iterations)
        print(f"ledger of {chosen.photos:,} photos built in {time.monotonic() - began:.0f} s")
        print(json.dumps(measure(Path(folder) / "ledger", Path(folder) / "tables")))


if __name__ == "__main__":
    main()
