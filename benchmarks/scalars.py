"""Which scale of the optical depth? What the diffusion model finds most likely, against the estimate as it is.

    python -m benchmarks.scalars FOLDER [--haze scenes] [--photos 40]

FOLDER: clear photographs, on which haze is rendered (``benchmarks.versions``). Each is estimated once and restored with its
optical depth times ``SCALES``; the results, squeezed to the size of ``builtin:haze``, are asked about under its words: the mean
squared error of v at ``TIMESTEPS``, two antithetic noises each, the same for all. Rules: the least error under ``clear``, and the
least error under ``clear`` less that under ``haze``, among all scales; "the truth" takes the best. PSNR at the estimate's size.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.model_card import denoising_errors
from benchmarks.versions import scenes, uneven
from fpcore.builtin.photographs import list_photographs
from fpcore.dehazing.haze_estimate import estimate_haze, view_photograph
from fpcore.dehazing.restore import plan_restoration, restore_picture
from fpcore.evaluation.metrics import psnr
from fpcore.models.load import load_model
from fpcore.models.model import Model

SCALES = (0.6, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5)
TIMESTEPS = (150, 300, 500, 700, 850)
LONGEST = 512
RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "the estimate as it is": lambda errors, found: torch.full((len(errors),), SCALES.index(1.0)),
    "least error under clear": lambda errors, found: errors[..., 0].argmin(1),
    "least error under clear less that under haze": lambda errors, found: (errors[..., 0] - errors[..., 1]).argmin(1),
    "the truth": lambda errors, found: found.argmax(1),
}


def candidates(hazy: Tensor, clear: Tensor) -> tuple[Tensor, Tensor]:
    """Restorations of a photograph (3, H, W) by ``SCALES``: (S, 3, h, w), and their PSNR to the clear one (S,), dB."""
    view = view_photograph((hazy * 255).round().byte().permute(1, 2, 0).numpy())
    e = estimate_haze(view)
    plans = (plan_restoration(replace(e, tau=scale * e.tau), view.texture) for scale in SCALES)
    results = torch.stack([restore_picture(plan, view.picture).clamp(0, 1) for plan in plans]).float()
    truth = F.interpolate(clear[None], results.shape[2:], mode="area").expand_as(results)
    return results, psnr(results, truth)


def errors_of(model: Model, results: Tensor) -> Tensor:
    """(S, 2): mean error of each result under ``clear`` and under ``haze``."""
    small = F.interpolate(results, model.image_size, mode="area")
    condition = model.embed(["clear", "haze"])
    return denoising_errors(model, model.encode(small * 2 - 1), condition, TIMESTEPS, 0, 64).mean(2)


def main() -> None:
    """Entry point: prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--haze", choices=["scenes", "uneven"], default="scenes")
    parser.add_argument("--photos", type=int, default=40)
    chosen = parser.parse_args()
    model, render = load_model("builtin:haze"), scenes if chosen.haze == "scenes" else uneven
    paths = [path for path, _ in list_photographs([chosen.folder])]
    generator = torch.Generator().manual_seed(0)
    errors, found = [], []
    for path in paths[:: max(1, len(paths) // chosen.photos)][: chosen.photos]:
        image = Image.open(path).convert("RGB")
        image.thumbnail((LONGEST, LONGEST))
        results, reached = candidates(*render(image, generator))
        errors.append(errors_of(model, results))
        found.append(reached)
    by, dB = torch.stack(errors), torch.stack(found)
    for name, rule in RULES.items():
        at = rule(by, dB)
        reached = dB.gather(1, at[:, None])[:, 0]
        scale = np.mean([SCALES[i] for i in at])
        print(f"{name:46} {reached.mean():6.2f} dB   scale {scale:.2f}")


if __name__ == "__main__":
    main()
