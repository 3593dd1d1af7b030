"""Inversion methods at equal residual and at equal evaluations, as one table in Markdown.

    python -m benchmarks.peer_table [--models builtin:haze builtin:scenes random] [--count 16] [--steps 10]

Equal residual: the laxest tolerance, or the fewest iterations, with which the true residual RMS(f(z) − z) of every
step of every photograph, measured anew, is at most 2.2e-3. Equal evaluations: the strictest tolerance, or the most
iterations, that spend at most ``--budget`` evaluations a step. ``random`` is a UNet of Stable Diffusion 1.5's size
with random weights, on one photograph in four steps, latents of 8 × 8: what each method costs such a network, not what
it gives. A dash: the method has no setting that reaches it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.inversion import (
    GRID,
    METHODS,
    TARGET,
    Make,
    Setting,
    at_equal_evaluations,
    at_equal_residual,
    read_photographs,
    run,
)
from benchmarks.random_sd import random_sd
from fpcore.inversion.methods import Method, method
from fpcore.inversion.schedule import Schedule
from fpcore.models.load import load_model

COUNTS = (1, 2, 3, 5, 8, 13, 20, 40)
"""Iterations tried of plain fixed-point iteration."""
SHOWN = (
    "ddim", "plain, a fixed count", "plain, intra-path", "inter-path", "aidi", "renoise", "renoise-sd",
    "renoise-regularised", "easyinv", "spdinv", "ddim-left", "certified as shipped",
)  # fmt: skip
LARGE = {"latent_size": 8, "count": 1, "steps": 4}
"""At Stable Diffusion's size, where an evaluation of 64 × 64 takes seconds."""
Row = dict[str, Any]


def plain(count: int) -> Method:
    """Fixed-point iteration (the paper's Eq. 6), so many times."""
    return method("fixed-point", iterations=count)


def counted(setting: Setting, budget: float) -> tuple[Row | None, Row | None]:
    """Plain iteration with the fewest iterations that leave no step above the target, and the most within the budget."""
    within = enough = None
    for count in COUNTS:
        row = run(setting, plain(count))
        within = row if count <= budget else within
        enough = enough or (None if row["steps_missed"] else row)
        if enough and count >= budget:
            break
    return enough, within


def tolerant(setting: Setting, make: Make, budget: float, tuned_on: int) -> tuple[Row | None, Row | None]:
    """A method with a tolerance at both comparisons."""
    residual = at_equal_residual(setting, make, run(setting, make(TARGET)) | {"tolerance": TARGET}, tuned_on)
    evaluations = at_equal_evaluations(setting, make, budget * len(setting.schedule), tuned_on)
    reached = None if residual["steps_missed"] else residual
    return reached, evaluations if evaluations["nfe"] <= 1.05 * budget * len(setting.schedule) else None


def fixed(setting: Setting, make: Make, budget: float) -> tuple[Row | None, Row | None]:
    """A method that has but one setting."""
    row = run(setting, make(GRID[0]))
    return (None if row["steps_missed"] else row), (
        row if row["nfe"] <= 1.05 * budget * len(setting.schedule) else None
    )


def cells(row: Row | None) -> str:
    """Evaluations, worst residual, round trip in dB."""
    return "– | – | –" if row is None else f"{row['nfe']:.1f} | {row['residual_max']:.1e} | {row['psnr']:.1f}"


def table(name: str, setting: Setting, budget: float, tuned_on: int) -> Iterator[str]:
    """The rows of one model."""
    compared: dict[str, Callable[[], tuple[Row | None, Row | None]]] = {}
    for shown in SHOWN:
        if shown == "plain, a fixed count":
            compared[shown] = lambda: counted(setting, budget)
        else:
            make, has_tolerance = METHODS[shown]
            compared[shown] = (
                (lambda make=make: tolerant(setting, make, budget, tuned_on))
                if has_tolerance
                else (lambda make=make: fixed(setting, make, budget))
            )
    for shown, compare in compared.items():
        began = time.process_time()
        residual, evaluations = compare()
        yield f"| {name} | {shown} | {cells(residual)} | {cells(evaluations)} |"
        print(f"{name}, {shown}: {time.process_time() - began:.0f} processor s", flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["builtin:haze", "builtin:scenes", "random"])
    parser.add_argument("--photos", nargs="*", default=[])
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--budget", type=float, default=3.0, help="evaluations a step")
    chosen = parser.parse_args()
    lines = []
    for name in chosen.models:
        large = name == "random"
        model = random_sd([""], dtype=torch.float32, latent_size=LARGE["latent_size"]) if large else load_model(name)
        count, steps = (LARGE["count"], LARGE["steps"]) if large else (chosen.count, chosen.steps)
        pixels = read_photographs(chosen.photos, count, model.image_size, 0)
        everywhere = model.embed([""]).repeat(count)
        setting = Setting(
            model,
            lambda z, t, image, model=model, c=everywhere: model.predict(z, t, c.rows(image)),
            Schedule.from_scheduler(model.scheduler, steps),
            pixels,
            batch_size=count,
        )
        with torch.no_grad():
            lines += table(name, setting, chosen.budget, min(4, count))
    print("| model | method | evaluations | worst residual | dB | evaluations | worst residual | dB |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
