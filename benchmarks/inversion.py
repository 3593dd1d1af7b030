"""Evaluations and round trip of every inversion method at equal residual and at equal evaluations.

    python -m benchmarks.inversion --photos PHOTOS [PHOTOS …] --count 32 --schedule trained --save rows.jsonl

Each method is listed at its natural setting and, where it has a tolerance, at the largest tolerance of a grid with which
every step of every photograph leaves a latent whose true residual RMS(f(z) − z), measured anew by an evaluation that is
not counted, is at most 2.2e-3, and at the strictest that spends no more than ``--budget`` evaluations a step. Schedules:
``trained``, the model's own, nearly zero terminal SNR, and ``scaled_linear``, Stable Diffusion's, through
``fpcore.inversion.noise_schedules``. Without --photos: crops of the photographs of scikit-image and scikit-learn. ``--only``
takes some methods, so that a long run can be cut into short ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.random_sd import random_sd
from fpcore.builtin.photographs import list_photographs
from fpcore.inversion.belm import TwoStepRule, invert_exactly, sample_exactly
from fpcore.inversion.convergence import final_residuals
from fpcore.inversion.edict import invert_coupled, sample_coupled
from fpcore.inversion.invert import Predict, invert
from fpcore.inversion.methods import Method, method
from fpcore.inversion.noise_schedules import schedule_at_levels_of
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from fpcore.models.load import load_model
from fpcore.models.model import Model

TARGET = 2.2e-3
EXACT = ("o-belm", "bdia", "edict")
GRID = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125)
"""Tolerances tried, as multiples of ``TARGET``, from lax to strict."""

Make = Callable[[float], Method]


def every_step(name: str, **options: Any) -> Method:
    """The method without speculative steps."""
    return method(name, speculative_below=0.0, **options)


METHODS: dict[str, tuple[Make, bool]] = {
    "ddim": (lambda tol: method("ddim"), False),
    "plain, 10 iterations": (lambda tol: method("fixed-point", iterations=10), False),
    "plain, intra-path": (lambda tol: method("intra-path", tolerance=tol), True),
    "inter-path": (lambda tol: method("inter-path", tolerance=tol), True),
    "aidi": (lambda tol: method("aidi", tolerance=tol), True),
    "renoise": (lambda tol: method("renoise"), False),
    "renoise-sd": (lambda tol: method("renoise-sd"), False),
    "renoise-regularised": (lambda tol: method("renoise-regularised"), False),
    "renoise-sd-regularised": (lambda tol: method("renoise-sd-regularised"), False),
    "easyinv": (lambda tol: method("easyinv"), False),
    "easyinv-sdxl": (lambda tol: method("easyinv-sdxl"), False),
    "spdinv": (lambda tol: method("spdinv"), False),
    "ddim-left": (lambda tol: method("ddim-left"), False),
    "certified + previous": (lambda tol: method("certified", tolerance=tol, guess="previous", damping=1.0), True),
    "certified + last": (lambda tol: method("certified", tolerance=tol, guess="last", damping=1.0), True),
    "certified + extrapolated": (lambda tol: every_step("certified", tolerance=tol, damping=1.0), True),
    "certified + extrapolated + Anderson": (lambda tol: every_step("certified", tolerance=tol, anderson=2), True),
    "certified + extrapolated + Chebyshev": (lambda tol: every_step("certified", tolerance=tol), True),
    "certified as shipped": (lambda tol: method("certified", tolerance=tol), True),
}
"""A method by tolerance, and whether it has one."""


@dataclass(frozen=True)
class Setting:
    """What all methods share."""

    model: Model
    predict: Predict
    schedule: Schedule
    pixels: Tensor
    batch_size: int

    def first(self, count: int) -> Setting:
        """The same with fewer photographs."""
        return Setting(self.model, self.predict, self.schedule, self.pixels[:count], self.batch_size)

    def psnr(self, latents: Tensor) -> Tensor:
        """dB (M,) of the decoded, clamped picture against the photograph at model size, peak 1."""
        decoded = self.model.decode(latents.float()).clamp(-1, 1)
        return -10 * ((decoded - self.pixels) / 2).square().flatten(1).mean(1).clamp_min(1e-12).log10()


def run(setting: Setting, chosen: Method) -> dict[str, Any]:
    """One inversion of all photographs, its round trip, and its true final residuals."""
    began = time.perf_counter()
    z0 = setting.model.encode(setting.pixels)
    found = invert(setting.predict, setting.schedule, z0, chosen, batch_size=setting.batch_size, keep_trajectory=True)
    back = sample(setting.predict, setting.schedule, found.latents, batch_size=setting.batch_size)
    assert found.trajectory is not None
    residual = final_residuals(setting.predict, setting.schedule, found.trajectory)
    psnr = setting.psnr(back)
    evaluations = np.bincount(found.records.step, minlength=len(setting.schedule)) * chosen.paths / len(z0)
    return {
        "nfe": float(np.mean(found.nfe)),
        "psnr": float(psnr.mean()),
        "psnr_min": float(psnr.min()),
        "residual_max": float(residual.max()),
        "steps_missed": int((residual > TARGET).sum()),
        "steps": residual.numel(),
        "status": Counter(status.label for status in found.status),
        "nfe_by_step": [round(float(n), 2) for n in evaluations],
        "residual_by_step": [float(f"{r:.3g}") for r in residual.amax(0)],
        "seconds": round(time.perf_counter() - began),
    }


def run_exact(setting: Setting, name: str) -> dict[str, Any]:
    """An exact sampler; it solves no fixed point, so it has no residual. ``latent_rms`` is 1 for the noise of training."""
    z0, size = setting.model.encode(setting.pixels), setting.batch_size
    if name == "edict":
        pair = invert_coupled(setting.predict, setting.schedule, z0, batch_size=size)
        back = sample_coupled(setting.predict, setting.schedule, pair.last, pair.before, batch_size=size)
    else:
        rule: TwoStepRule = "bdia" if name == "bdia" else "o-belm"
        pair = invert_exactly(setting.predict, setting.schedule, z0, batch_size=size, rule=rule)
        back = sample_exactly(setting.predict, setting.schedule, pair.last, pair.before, batch_size=size, rule=rule)
    psnr = setting.psnr(back)
    return {
        "nfe": float(len(setting.schedule)) * (2 if name == "edict" else 1),
        "psnr": float(psnr.mean()),
        "psnr_min": float(psnr.min()),
        "latent_rms": float(pair.last.square().mean().sqrt()),
    }


def at_equal_residual(setting: Setting, make: Make, natural: dict[str, Any], tuned_on: int) -> dict[str, Any]:
    """The laxest tolerance of the grid that leaves no step above ``TARGET``: sought on a few photographs, kept for all."""
    few, at = setting.first(tuned_on), GRID.index(1.0)
    if natural["tolerance"] != TARGET:
        natural = run(setting, make(TARGET))
    if natural["steps_missed"]:
        at += 1
    while at > 0 and natural["steps_missed"] == 0 and run(few, make(GRID[at - 1] * TARGET))["steps_missed"] == 0:
        at -= 1
    for factor in GRID[at:]:
        row = natural if factor == 1 else run(setting, make(factor * TARGET))
        if not row["steps_missed"]:
            break
    return row | {"tolerance": factor * TARGET, "setting": "equal residual"}


def at_equal_evaluations(setting: Setting, make: Make, budget: float, tuned_on: int) -> dict[str, Any]:
    """The strictest tolerance of the grid that spends no more than ``budget`` evaluations an image, else the laxest."""
    few = setting.first(tuned_on)
    for factor in reversed(GRID):
        if run(few, make(factor * TARGET))["nfe"] <= budget:
            break
    return run(setting, make(factor * TARGET)) | {"tolerance": factor * TARGET, "setting": "equal evaluations"}


def rows_of(
    name: str,
    setting: Setting,
    tolerances: list[float],
    tuned_on: int,
    norm: Literal["state", "picture"],
    budget: float,
) -> Iterator[dict[str, Any]]:
    """The natural setting at each tolerance, then the comparison at equal residual."""
    if name in EXACT:
        yield run_exact(setting, name) | {"setting": "natural"}
        return
    named, tolerant = METHODS[name]

    def make(tolerance: float) -> Method:
        return replace(named(tolerance), norm=norm)

    for tolerance in tolerances if tolerant else tolerances[:1]:
        natural = (
            run(setting, make(tolerance)) | {"setting": "natural"} | ({"tolerance": tolerance} if tolerant else {})
        )
        yield natural
    if tolerant and tuned_on:
        yield at_equal_residual(setting, make, natural, tuned_on)
        yield at_equal_evaluations(setting, make, budget * len(setting.schedule), tuned_on)


def read_photographs(folders: list[str], count: int, size: tuple[int, int], seed: int) -> Tensor:
    """(count, 3, h, w) in [-1, 1], squeezed to the model's size by area, chosen at random over all folders."""
    images = [path for path, _ in list_photographs([Path(folder) for folder in folders])] if folders else free_crops()
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    if len(chosen) < count:
        sys.exit(
            f"there are only {len(chosen)} photographs, {count} were asked for: give more folders or a lower --count"
        )
    pixels = [np.asarray(open_picture(images[i]).resize(size[::-1], Image.Resampling.BOX)) for i in chosen]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def open_picture(source: Path | Image.Image) -> Image.Image:
    """As 8-bit RGB."""
    return (source if isinstance(source, Image.Image) else Image.open(source)).convert("RGB")


def free_crops() -> list[Any]:
    """Each free photograph whole and in eight overlapping crops of two thirds of its sides: 54 pictures."""
    from fpcore.builtin.demo_photographs import clear_photographs

    pictures: list[Any] = []
    for _, pixels in clear_photographs():
        whole = Image.fromarray(pixels)
        w, h = whole.size
        corners = [(x * w // 6, y * h // 6) for x in range(3) for y in range(3) if (x, y) != (1, 1)]
        pictures += [whole, *(whole.crop((x, y, x + 2 * w // 3, y + 2 * h // 3)) for x, y in corners)]
    return pictures


def main() -> None:
    """Measure, print and append to a file of JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="builtin:haze", help="builtin:haze, builtin:scenes, or random: SD 1.5's size"
    )
    parser.add_argument(
        "--budget", type=float, default=2.0, help="evaluations a step for the setting 'equal evaluations'"
    )
    parser.add_argument("--photos", nargs="*", default=[])
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--schedule", default="trained", choices=["trained", "scaled_linear", "linear", "cosine"])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--only", nargs="*", choices=[*METHODS, *EXACT], default=[*METHODS, *EXACT])
    parser.add_argument(
        "--tuned-on", type=int, default=8, help="photographs to seek tolerances on; 0: natural settings only"
    )
    parser.add_argument("--tolerances", nargs="*", type=float, default=[TARGET], help="natural settings to measure")
    parser.add_argument("--norm", choices=["state", "picture"], default="state", help="of the tolerances")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path)
    chosen = parser.parse_args()
    model = random_sd([""], dtype=torch.float32) if chosen.model == "random" else load_model(chosen.model)
    pixels = read_photographs(chosen.photos, chosen.count, model.image_size, chosen.seed)
    schedule = schedule_at_levels_of(model.scheduler, chosen.schedule, chosen.steps)
    everywhere = model.embed([""]).repeat(chosen.count)
    setting = Setting(
        model,
        lambda z, t, image: model.predict(z, t, everywhere.rows(image)),
        schedule,
        pixels,
        batch_size=chosen.count,
    )
    for name in chosen.only:
        for row in rows_of(name, setting, chosen.tolerances, chosen.tuned_on, chosen.norm, chosen.budget):
            row = {
                "method": name,
                "model": model.name,
                "schedule": chosen.schedule,
                "norm": chosen.norm,
                "photographs": chosen.count,
                "digest": model.digest[:12],
                **row,
            }
            shown = {key: value for key, value in row.items() if not key.endswith("by_step")}
            print(json.dumps(shown), flush=True)
            if chosen.save:
                with chosen.save.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
