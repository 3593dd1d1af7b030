"""A built-in model on a processor by PyTorch in float32 and bfloat16, and by ONNX Runtime: processor seconds, pictures.

    python -m benchmarks.backends [--count 16] [--repeats 3]

Calls of the network at several numbers of rows, then the whole of inversion and regeneration at the defaults (10 steps in
the model's own spacing, certified), in turn within one process, one thread, the least of ``--repeats`` rounds.
Photographs: crops of those of scikit-image and scikit-learn, with haze rendered on them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.job import SOURCE, photographs
from fpcore.dehazing.dehaze import DehazeSettings, dehaze
from fpcore.evaluation.metrics import psnr
from fpcore.models.load import load_model
from fpcore.models.model import Model

WAYS: dict[str, dict[str, Any]] = {
    "PyTorch, float32": {"onnx": False},
    "PyTorch, bfloat16": {"onnx": False, "torch_dtype": "bfloat16"},
    "ONNX Runtime": {"onnx": True},
}


def used(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and processor seconds."""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def calls(models: dict[str, Model], rows: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Milliseconds a row of a call, and the relative difference from the first way's output."""
    first = next(iter(models.values()))
    z = torch.randn(rows, *first.latent_shape(*first.image_size), generator=torch.Generator().manual_seed(0))
    t, outputs, seconds = torch.full((rows,), 500), dict[str, Tensor](), dict.fromkeys(models, float("inf"))
    for _ in range(repeats + 1):
        for name, model in models.items():
            condition = model.embed([SOURCE]).repeat(rows)
            with torch.no_grad():
                outputs[name], once = used(lambda m=model, c=condition: [m.predict(z, t, c) for _ in range(4)][-1])
            seconds[name] = min(seconds[name], once / 4)
    base = outputs[next(iter(models))]
    return {n: (1000 * seconds[n] / rows, float((outputs[n] - base).norm() / base.norm())) for n in models}


def whole(models: dict[str, Model], count: int, batch_size: int, repeats: int) -> dict[str, tuple[float, float, float]]:
    """Processor seconds a photograph of inverting and regenerating; evaluations; dB to the clear photographs."""
    hazy, clear = photographs(count, next(iter(models.values())).image_size)
    settings = DehazeSettings(dehazing_method="regenerate", batch_size=batch_size)
    seconds, found = dict.fromkeys(models, float("inf")), dict[str, Any]()
    for _ in range(repeats):
        for name, model in models.items():
            found[name], once = used(lambda m=model: dehaze(m, hazy, settings))
            seconds[name] = min(seconds[name], once / count)
    return {
        n: (seconds[n], sum(f.nfe) / count, float(psnr(f.result.clamp(0, 1), clear).mean())) for n, f in found.items()
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=["builtin:haze", "builtin:scenes"])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for model_name in chosen.models:
        models = {name: load_model(model_name, device="cpu", **options) for name, options in WAYS.items()}
        for rows in (1, 4, 16):
            row = calls(models, rows, chosen.repeats)
            base = row["PyTorch, float32"][0]
            shown = (f"{n} {ms:.2f} ms a row ({base / ms:.2f} x, {apart:.0e} apart)" for n, (ms, apart) in row.items())
            print(f"{model_name}, {rows} rows a call: {'; '.join(shown)}", flush=True)
        if model_name == "builtin:haze":
            for batch_size in (1, 16):
                done = whole(models, chosen.count, batch_size, chosen.repeats)
                base = done["PyTorch, float32"][0]
                shown = (
                    f"{n} {s:.3f} s ({base / s:.2f} x), {nfe:.1f} evaluations, {db:.2f} dB"
                    for n, (s, nfe, db) in done.items()
                )
                print(f"{model_name}, a photograph in batches of {batch_size}: {'; '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
