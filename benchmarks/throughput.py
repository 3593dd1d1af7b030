r"""Photos a second against the peers, utilisation, batching, input and output, growth: ratios from one run.

    python -m benchmarks.throughput --threads 2                       # the built-in model on the CPU, about ten minutes
    python -m benchmarks.throughput --model sd15 --device cuda --compile --steps 50 --batch-size 64 --count 64 \
        --files 192 --threads 8 --only network device dehaze pipeline # one GPU, about five minutes, nothing to download
    python -m benchmarks.throughput --only batching --count 16        # one part

Parts: ``dehaze`` the whole job against diffusers' loop and against fixed-point code for one image at a time; ``network``
ways of calling it; ``device`` operations achieved over the measured matrix rate; ``batching`` continuous against batch by
batch and lock-step; ``stages`` decoding, rendering, encoding, Parquet, S3; ``pipeline`` whole runs, also with a network
that costs nothing; ``growth`` photos and planned keys against time and memory. Each prints JSON lines; ``--save`` appends
them to a file.
Photographs: crops of those of scikit-image and scikit-learn, with haze rendered on them.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import pipeline
from benchmarks.job import CERTIFIED, SOURCE, Job, photographs, warm
from benchmarks.peers import diffusers_loop, fixed_point_latents, fixed_point_loop
from benchmarks.random_sd import random_sd
from benchmarks.roofline import Meter, bytes_a_call, matrix_rate, memory_rate, operations_a_row, shortest, synchronise
from fpcore.dehazing.dehaze import dehaze
from fpcore.inversion.convergence import final_residuals
from fpcore.inversion.invert import invert
from fpcore.inversion.methods import method
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from fpcore.models.compiled import Compiled, fixed_shapes
from fpcore.models.load import DTYPES, load_model

TARGET = ""
COUNTS = (1, 2, 3, 5, 10, 20, 40)
"""Fixed iteration counts tried for the peers until their mean residual is no higher than ours."""
TOLERANCES = (3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
"""Tolerances tried for ours, from lax to strict, until neither residual is higher than that of diffusers' loop."""


def timed(job: Job, work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, and the least wall and processor seconds of ``job.repeats`` runs."""
    walls, processors = [], []
    for _ in range(job.repeats):
        began, used = time.perf_counter(), time.process_time()
        result = work()
        synchronise(job.model.device)
        walls.append(time.perf_counter() - began)
        processors.append(time.process_time() - used)
    return result, min(walls), min(processors)


def psnr(job: Job, result: Tensor) -> float:
    """Mean dB to the clear photographs."""
    return float((-10 * (result.clamp(0, 1) - job.clear).square().mean((1, 2, 3)).log10()).mean())


def check(job: Job) -> None:
    """Our sampling and diffusers' give the same latents from the same noise."""
    z = torch.randn((2, *job.model.latent_shape(*job.hazy.shape[-2:])), generator=torch.Generator().manual_seed(0))
    z = z.to(job.model.device)
    schedule = Schedule.from_scheduler(job.model.scheduler, job.steps, "trailing")
    ours = job.model.decode(sample(job.first(2).predict(TARGET), schedule, z, batch_size=2))
    # zero inversion steps: the peers' sampling alone
    forward = type(job.model.scheduler).from_config(job.model.scheduler.config, timestep_spacing="trailing")
    forward.set_timesteps(job.steps, device=z.device)
    condition = job.model.embed([TARGET]).repeat(2)
    for t in forward.timesteps:
        z = forward.step(job.model.predict(z, t.expand(2), condition), t, z).prev_sample
    torch.testing.assert_close(
        ours, job.model.decode(z), atol=2e-3 if job.model.dtype == torch.float32 else 0.1, rtol=0
    )


def residual(job: Job, trajectory: Tensor) -> tuple[float, float]:
    """Mean and worst RMS(f(z) − z) over photographs and steps, measured anew."""
    found = final_residuals(job.predict(SOURCE), job.schedule, trajectory)
    return float(found.mean()), float(found.max())


def plain_iterations(job: Job, mean: float) -> tuple[int, tuple[float, float]]:
    """The fewest of ``COUNTS`` iterations with which the peers' mean residual is no higher, and what they leave then."""
    z0 = job.model.encode(job.hazy * 2 - 1)
    for count in COUNTS:
        found = residual(job, fixed_point_latents(job.model, job.schedule, z0, SOURCE, count, batch_size=len(z0)))
        if found[0] <= mean:
            break
    return count, found


def certified_residual(job: Job, tolerance: float) -> tuple[float, float]:
    """What our inversion leaves."""
    z0 = job.model.encode(job.hazy * 2 - 1)
    chosen = method("certified", tolerance=tolerance)
    run = invert(job.predict(SOURCE), job.schedule, z0, chosen, batch_size=len(z0), keep_trajectory=True)
    assert run.trajectory is not None
    return residual(job, run.trajectory)


def lax_tolerance(job: Job, mean: float, worst: float) -> tuple[float, tuple[float, float]]:
    """The laxest of ``TOLERANCES`` with which neither residual of ours is higher, and what it leaves."""
    for tolerance in TOLERANCES:
        found = certified_residual(job, tolerance)
        if found[0] <= mean and found[1] <= worst:
            break
    return tolerance, found


def against_peers(job: Job) -> Iterator[dict[str, Any]]:
    """(a) The whole job from pixels to pixels. ``times``: photos a second over those of diffusers' loop at batch 1."""
    check(job.as_peer())
    few, pair = job.as_peer().first(4), job.as_peer().first(2)
    z0 = few.model.encode(few.hazy * 2 - 1)
    ddim = residual(few, fixed_point_latents(job.model, job.schedule, z0, SOURCE, 1, batch_size=len(z0)))
    shipped = certified_residual(few, TOLERANCES[-1])
    tolerance, lax = lax_tolerance(few, *ddim)
    count, plain = plain_iterations(few, shipped[0])
    yield {
        "residual_mean_worst": {
            "diffusers": ddim, f"ours at {tolerance:g}": lax, "ours as shipped": shipped, f"plain, {count}": plain,
        },
    }  # fmt: skip
    size = job.batch_size

    def loop(part: Job, rows: int) -> Callable[[], Tensor]:
        return lambda: diffusers_loop(part.model, part.hazy, part.steps, SOURCE, TARGET, rows)

    def ours(words: tuple[str | None, str | None], tolerance: float) -> Callable[[], Tensor]:
        chosen = job.settings("words-by-place", method("certified", tolerance=tolerance))
        settings = replace(chosen, prompt=words[0], target_prompt=words[1])
        return lambda: dehaze(job.model, job.hazy, settings).result

    ways: list[tuple[str, Job, Callable[[], Tensor]]] = [
        ("diffusers, one image at a time", few, loop(few, 1)),
        (f"diffusers, batches of {size}", job, loop(job.as_peer(), size)),
        ("ours at no higher residual", job, ours((SOURCE, TARGET), tolerance)),
        (
            f"fixed point, one image at a time, {count} iterations: the residual of ours as shipped",
            pair,
            lambda: fixed_point_loop(pair.model, pair.hazy, pair.steps, SOURCE, TARGET, count),
        ),
        ("ours as shipped, the same prompts", job, ours((SOURCE, TARGET), TOLERANCES[-1])),
    ]
    if job.model.text_encoders:
        ways.append(("ours as shipped, words by place", job, ours((None, None), TOLERANCES[-1])))
    base: tuple[float, float] | None = None
    warm(job, size)
    for name, part, work in ways:
        result, wall, processor = timed(part, work)
        rate = len(part.hazy) / wall, len(part.hazy) / processor
        base = base or rate
        yield {
            "way": name, "photos": len(part.hazy), "photos_per_s": rate[0], "times": rate[0] / base[0],
            "times_in_processor_time": rate[1] / base[1], "psnr_to_clear": psnr(part, result),
        }  # fmt: skip


def utilisation(job: Job) -> Iterator[dict[str, Any]]:
    """(b) Operations a second of inversion and sampling over the best of a matrix product; share of time computing."""
    model = job.model
    everyone, condition = model.encode(job.hazy * 2 - 1), model.embed([SOURCE]).repeat(len(job.hazy))
    roof, stream = matrix_rate(model.device, model.dtype), memory_rate(model.device)
    operations = operations_a_row(job.peer, everyone, condition)
    compiled = isinstance(model.unet, Compiled)  # a minute for each number of rows
    for rows in (
        [job.batch_size] if compiled else sorted({1, job.batch_size // 2 or 1, job.batch_size, 2 * job.batch_size})
    ):
        moved = bytes_a_call(job.peer, everyone, condition, rows)
        latents = everyone[: 2 * rows]
        meter = Meter(model.unet)
        metered = replace(job, model=replace(model, unet=meter))
        warm(job, rows)

        def work(metered: Job = metered, rows: int = rows, latents: Tensor = latents) -> None:
            there = invert(metered.predict(SOURCE), job.schedule, latents, CERTIFIED, batch_size=rows)
            sample(metered.predict(TARGET), job.schedule, there.latents, batch_size=rows)

        _, wall, processor = timed(replace(metered, repeats=1), work)
        achieved = operations * meter.rows / wall
        yield {
            "rows": rows, "calls": meter.calls, "gflop_a_row": operations / 1e9, "mb_a_call": moved / 1e6,
            "intensity": operations * rows / moved, "ridge": roof / stream, "roof_gflops": roof / 1e9,
            "stream_gbs": stream / 1e9, "achieved_gflops": achieved / 1e9, "of_roof": achieved / roof,
            "of_roof_in_processor_time": operations * meter.rows / processor / roof,
            "network_share_of_wall": meter.seconds() / wall,
        }  # fmt: skip


def network(job: Job) -> Iterator[dict[str, Any]]:
    """Ways of calling the network, ``batch_size`` rows: seconds a row, and operations over the matrix rate."""
    peer, rows = job.peer, job.batch_size
    shape = peer.latent_shape(*peer.image_size)
    z, t = torch.randn(rows, *shape, device=peer.device), torch.full((rows,), 500, device=peer.device)
    condition = peer.embed([SOURCE]).repeat(rows)
    operations, roof = operations_a_row(peer, z, condition), matrix_rate(peer.device, peer.dtype)
    last = copy.deepcopy(peer.unet).to(memory_format=torch.channels_last)
    ways: list[tuple[str, Any, bool]] = [
        ("as diffusers loads it", peer.unet, False),
        ("the same, convolutions timed, cuDNN attention", peer.unet, True),
        ("channels-last", last, False),
        ("channels-last, convolutions timed, cuDNN attention", last, True),
    ]
    if isinstance(job.model.unet, Compiled):
        ways.append(("compiled as well", job.model.unet, False))
    expected: Tensor | None = None
    for name, unet, fixed in ways:
        called = replace(peer, unet=unet)
        with torch.no_grad(), fixed_shapes() if fixed else nullcontext():
            began = time.perf_counter()
            output = called.predict(z, t, condition)
            synchronise(peer.device)
            first = time.perf_counter() - began
            seconds = shortest(lambda called=called: called.predict(z, t, condition), peer.device, repeats=5)
        expected = output if expected is None else expected
        yield {
            "way": name, "rows": rows, "ms_a_row": 1000 * seconds / rows, "achieved_tflops": operations * rows / seconds / 1e12,
            "of_roof": operations * rows / seconds / roof, "first_call_s": first,
            "relative_difference": float((output - expected).norm() / expected.norm()),
        }  # fmt: skip


def batching(job: Job) -> Iterator[dict[str, Any]]:
    """(c) Network rows that the batch computes for the rows that the photographs need, three ways of batching.

    Lock-step: a step lasts until its slowest photograph is done. Its calls follow from the recorded iterations.
    """
    latents = job.model.encode(job.hazy * 2 - 1)
    counted = Meter(job.model.unet)
    meters = replace(job, model=replace(job.model, unet=counted)).predict(SOURCE)
    run, wall, processor = timed(
        replace(job, repeats=1), lambda: invert(meters, job.schedule, latents, CERTIFIED, batch_size=job.batch_size)
    )
    needed, continuous = int(sum(run.nfe)), counted.rows
    iterations = np.zeros((len(latents), job.steps), int)
    np.maximum.at(iterations, (run.records.image, run.records.step), run.records.iteration)
    parts = np.array_split(iterations, range(job.batch_size, len(latents), job.batch_size))
    by_batch = sum(int(part.sum(1).max()) * job.batch_size for part in parts)
    lock_step = sum(int(part.max(0).sum()) * job.batch_size for part in parts)
    spread = np.percentile(iterations.sum(1), (0, 50, 100))
    yield {
        "photos": len(latents), "evaluations_least_median_most": spread.tolist(), "rows_needed": needed,
        "rows_continuous": continuous, "rows_batch_by_batch": by_batch, "rows_lock_step": lock_step,
        "occupancy_continuous": needed / continuous, "occupancy_batch_by_batch": needed / by_batch,
        "occupancy_lock_step": needed / lock_step, "wall_s_continuous": wall, "processor_s_continuous": processor,
    }  # fmt: skip


def main() -> None:
    """Measure, print, append."""
    parts: dict[str, Callable[[Job], Iterator[dict[str, Any]]]] = {
        "dehaze": against_peers,
        "network": network,
        "device": utilisation,
        "batching": batching,
        "stages": pipeline.stages,
        "pipeline": pipeline.whole,
        "growth": pipeline.growth,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:haze", help="builtin:haze; sd15: random weights; sd15-small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="of the UNet; default float32 on the CPU, bfloat16 on CUDA")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--files", type=int, help="photographs of a whole run; default: --count")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="ours with a compiled network")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=[*parts], default=[*parts])
    parser.add_argument("--save", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    dtype = DTYPES[chosen.dtype or ("float32" if chosen.device == "cpu" else "bfloat16")]
    if chosen.model.startswith("sd15"):
        model = random_sd([SOURCE, TARGET], device=chosen.device, dtype=dtype, small=chosen.model == "sd15-small")
    else:
        model = load_model(chosen.model, device=chosen.device, torch_dtype=dtype, onnx=False)  # as the peers are
    plain = copy.deepcopy(model.unet).to(memory_format=torch.contiguous_format)
    peer = replace(model, unet=plain)
    if chosen.compile:
        model = replace(model, unet=Compiled(model.unet))
    hazy, clear = photographs(chosen.count, model.image_size)
    job = Job(model, peer, hazy, clear, chosen.steps, chosen.batch_size, chosen.repeats, chosen.files or chosen.count)
    for name in chosen.only:
        for row in parts[name](job):
            line = json.dumps({"part": name, "threads": chosen.threads, "dtype": str(dtype)} | rounded(row))
            print(line, flush=True)
            if chosen.save:
                with chosen.save.open("a") as lines:
                    lines.write(line + "\n")


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Four digits."""

    def short(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return [short(v) for v in value]
        if isinstance(value, dict):
            return {key: short(v) for key, v in value.items()}
        return float(f"{value:.4g}") if isinstance(value, float) else value

    return {name: short(value) for name, value in row.items()}


if __name__ == "__main__":
    main()
