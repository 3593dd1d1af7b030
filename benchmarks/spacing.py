"""Where the steps belong: contraction rates by spacing, and what each spacing costs and gives on rendered haze.

    python -m benchmarks.spacing FOLDER [--limit 16] [--figure docs/figures/spacing.png]

FOLDER: clear photographs that the model was not trained on. Haze (1 − mean transmission from .2 to .6) is
rendered on each at 64 pixels and brought to the model's size; it is inverted under ``haze`` and regenerated
under the null text. Printed: evaluations of the inversion and in all, PSNR to the clear picture, the worst
gain, and how many photographs have an uncertified step.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fpcore.builtin.photographs import list_photographs
from fpcore.builtin.rendered_haze import render_haze
from fpcore.dehazing.dehaze import DehazeSettings, dehaze
from fpcore.evaluation.metrics import psnr
from fpcore.inversion.criteria import Status
from fpcore.inversion.methods import method
from fpcore.inversion.schedule import Schedule, TimestepSpacing
from fpcore.models.load import load_model

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CHOICES: tuple[tuple[TimestepSpacing, int, float], ...] = (
    ("trailing", 25, 1e-3), ("trailing", 10, 1e-2), ("log-sigma", 6, 1e-2), ("log-sigma", 8, 1e-2),
    ("log-sigma", 10, 1e-3), ("log-sigma", 10, 1e-2), ("log-sigma", 14, 1e-2),
)  # fmt: skip
"""Spacing, steps, tolerance."""


def photographs(folder: Path, limit: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Hazy and clear (N, 3, h, w) in [0, 1] of evenly chosen photographs of ``folder``."""
    paths = [path for path, _ in list_photographs([folder])]
    paths = paths[:: max(1, len(paths) // limit)][:limit]
    squeezed = [Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.BOX) for path in paths]
    clear = torch.from_numpy(np.stack([np.array(one) for one in squeezed])).permute(0, 3, 1, 2).float() / 255
    generator = torch.Generator().manual_seed(0)
    hazy = render_haze(clear, 0.2 + 0.4 * torch.rand(len(clear), generator=generator), generator).image
    small = (torch.nn.functional.interpolate(x, size, mode="area") for x in (hazy, clear))
    hazy, clear = small
    return hazy.clamp(0, 1), clear


def figure(scheduler: object, into: Path) -> None:
    """Draw r of every step for ten steps in each spacing."""
    axes = plt.figure(figsize=(7, 3.2), layout="constrained").add_subplot()
    for spacing in ("leading", "trailing", "linspace", "log-sigma"):
        rate = Schedule.from_scheduler(scheduler, 10, spacing).rate  # type: ignore[arg-type]
        axes.plot(range(1, 11), rate, "o-", label=spacing, linewidth=2.5 if spacing == "log-sigma" else 1.2)
    axes.set(xlabel="step of the inversion", ylabel="contraction rate r", ylim=(-0.03, 1.03), xticks=range(1, 11))
    axes.set_title("Ten steps of the built-in models")
    axes.legend(loc="upper center", ncols=2)
    axes.figure.savefig(into, dpi=110)


@torch.no_grad()
def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=16)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    models = {name: load_model("builtin:haze", device="cpu", timestep_spacing=name) for name, _, _ in CHOICES}
    if args.figure:
        figure(models["trailing"].scheduler, args.figure)
    hazy, clear = photographs(args.folder, args.limit, models["trailing"].image_size)
    before = psnr(hazy, clear)
    print(f"{len(hazy)} photographs, hazy {before.mean():.2f} dB")
    for spacing, steps, tolerance in CHOICES:
        settings = DehazeSettings(
            dehazing_method="regenerate",
            method=method("certified", tolerance=tolerance),
            num_inference_steps=steps,
            batch_size=16,
        )
        found = dehaze(models[spacing], hazy, settings)
        after = psnr(found.result.clamp(0, 1), clear)
        uncertified = sum(status != Status.CONVERGED for status in found.inversion.status)
        print(
            f"{spacing}, {steps} steps, tolerance {tolerance:g}: {np.mean(found.inversion.nfe):.1f} evaluations of "
            f"inversion, {np.mean(found.nfe):.1f} in all, {after.mean():.2f} dB, worst gain {(after - before).min():.2f}, "
            f"{uncertified} with an uncertified step",
            flush=True,
        )


if __name__ == "__main__":
    main()
