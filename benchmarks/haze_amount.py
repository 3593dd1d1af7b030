"""How well the amount of haze is told, and what the default of dehazing makes of it, on haze rendered on clear photographs.

    python -m benchmarks.haze_amount FOLDER [--model builtin:haze] [--limit 150]

Any folder of clear photographs that the model was not trained on; no hazy/clear pair is needed. Haze is rendered at the
photographs' own resolution (at most 640 pixels), three times on each: .1 to .65, from as uneven as its depth is drawn to the
same everywhere. Printed: the error (RMS) of the amount as the model sees it, as the darkest value tells it, and of both
together by least squares, whose coefficients are ``haze_density.COEFFICIENTS``; how well hazy is told from clear, and
from which darkest value on; the PSNR at model size for several views (``dehaze.VIEWS``) and ways of saying how far the
edit goes (``fpcore.dehazing.edit_strength``); and what is edited by default (``fpcore.dehazing.quality_gate``).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.progress import track
from torch import Tensor

from fpcore.builtin.photographs import list_photographs
from fpcore.builtin.rendered_haze import random_evenness, render_haze
from fpcore.dehazing import dehaze as engine
from fpcore.dehazing.edit_strength import share_to_black
from fpcore.dehazing.haze_density import LONGEST_SIDE, darkest_value, estimate_amount
from fpcore.dehazing.quality_gate import SEEN_HAZY, evidence_of_haze, judge
from fpcore.evaluation.metrics import psnr
from fpcore.models.load import load_model
from fpcore.models.model import Model

RENDERINGS = 3
MULTIPLES = ((1.4,), (1.0, 1.0), (0.8, 1.35), (0.6, 1.4), (1.0, 1.4), (1.4, 1.4), (1.2, 1.6))
BLACKS = (-0.02, -0.01, 0.0, 0.01)
HOW_FAR = (0.25, 0.5, 0.75)
THRESHOLDS = (0.05, 0.07, 0.09, 0.11, 0.13, 0.15)


@dataclass(frozen=True)
class Material:
    """N hazy renderings: ``hazy``, ``clear`` (N, 3, h, w) at model size, ``amount`` (N,), darkest values of both (N,)."""

    hazy: Tensor
    clear: Tensor
    amount: Tensor
    darkest: Tensor
    darkest_clear: Tensor


def _bytes(picture: Tensor) -> np.ndarray:
    return (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def _small(pixels: np.ndarray, size: tuple[int, int]) -> Tensor:
    squeezed = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BOX)
    return torch.from_numpy(np.array(squeezed)).permute(2, 0, 1).float() / 255


def render(folder: Path, limit: int, size: tuple[int, int]) -> Material:
    """Haze on every photograph of ``folder``, evenly thinned to ``limit``."""
    paths = [path for path, _ in list_photographs([folder])]
    paths = paths[:: max(1, len(paths) // limit)][:limit]
    generator = torch.Generator().manual_seed(0)
    hazy, clear, amounts, darkest, darkest_clear = [], [], [], [], []
    for path in track(paths, "rendering haze"):
        photograph = Image.open(path).convert("RGB")
        photograph.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
        pixels = np.array(photograph)
        picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        coarse = F.interpolate(picture, (64, 64), mode="area").repeat(RENDERINGS, 1, 1, 1)
        amount = 0.1 + 0.55 * torch.rand(RENDERINGS, generator=generator)
        haze = render_haze(coarse, amount, generator, evenness=random_evenness(RENDERINGS, generator))
        transmission = F.interpolate(haze.transmission, picture.shape[-2:], mode="bilinear")
        airlight = ((haze.image - coarse * haze.transmission) / (1 - haze.transmission)).mean((2, 3), keepdim=True)
        for image in picture * transmission + airlight * (1 - transmission):
            hazy.append(_small(_bytes(image), size))
            darkest.append(darkest_value(_bytes(image)))
        clear += [_small(pixels, size)] * RENDERINGS
        darkest_clear += [darkest_value(pixels)] * RENDERINGS
        amounts.append(haze.amount)
    return Material(
        torch.stack(hazy), torch.stack(clear), torch.cat(amounts), torch.tensor(darkest), torch.tensor(darkest_clear)
    )


def seen(model: Model, pictures: Tensor) -> Tensor:
    """The amount that the model sees in each."""
    parts = [
        estimate_amount(model, model.encode(part * 2 - 1), engine.HAZE_SCALE, batch_size=256)[0]
        for part in track(pictures.split(16), "asking the model")
    ]
    return torch.cat(parts)


def least_squares(columns: list[Tensor], target: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients, the constant last, and each photograph's value by those fitted to the other four fifths of the photographs."""
    x = torch.stack([*columns, torch.ones_like(target)], 1).double()
    fold = torch.arange(len(target)) // RENDERINGS % 5
    value = torch.empty_like(target)
    for k in range(5):
        w = torch.linalg.lstsq(x[fold != k], target[fold != k, None].double()).solution
        value[fold == k] = (x[fold == k] @ w)[:, 0].float()
    return torch.linalg.lstsq(x, target[:, None].double()).solution[:, 0], value


def separation(hazy: Tensor, clear: Tensor) -> float:
    """Chance that a hazy photograph has more evidence of haze than a clear one (area under the ROC curve)."""
    return float((hazy[:, None] > clear[None]).float().mean())


def thresholds(m: Material, hazy: Tensor, clear: Tensor) -> None:
    """Print how many hazy renderings are missed and clear photographs edited by the darkest value from which haze is there."""
    sure = SEEN_HAZY[0]
    for low in THRESHOLDS:
        missed = (m.darkest < low) & (hazy < sure)
        edited = (m.darkest_clear[::RENDERINGS] >= low) | (clear >= sure)
        print(
            f"haze from a darkest value of {low}: {missed.float().mean():.1%} missed, {edited.float().mean():.1%} edited"
        )


def gains(model: Model, m: Material, seen: Tensor) -> None:
    """Print PSNR at model size, one rendering of each photograph, by views and by how far the edit goes."""
    chosen = torch.arange(0, len(seen), RENDERINGS) + torch.arange(len(seen) // RENDERINGS) % RENDERINGS
    m = Material(m.hazy[chosen], m.clear[chosen], m.amount[chosen], m.darkest[chosen], m.darkest_clear[chosen])
    before = psnr(m.hazy, m.clear)
    print(f"PSNR of {len(chosen)} hazy pictures {before.mean():.2f} dB; after, worst gain, 5 % gain less than")

    def report(name: str, result: Tensor) -> None:
        after = psnr(result.clamp(0, 1), m.clear)
        gain = after - before
        print(f"  {name}: {after.mean():.2f}, {gain.min():.2f}, {gain.quantile(0.05):.2f}", flush=True)

    for multiples in MULTIPLES:
        views = tuple((multiple, i % 2 == 1) for i, multiple in enumerate(multiples))
        settings = engine.DehazeSettings(views=views, to_black=False, batch_size=16)
        edit = engine.dehaze(model, m.hazy, settings, darkest=m.darkest, seen=seen[chosen]).result
        report(f"{multiples} as the model takes it", edit)
        for black in BLACKS:
            share = share_to_black(m.hazy, edit, m.darkest, black=black)
            report(f"{multiples} to black at {black}", torch.lerp(m.hazy, edit, share.view(-1, 1, 1, 1)))
        for part in HOW_FAR:
            share = (1 - part) * share_to_black(m.hazy, edit, m.darkest) + part
            report(f"{multiples} {part} as the model takes it", torch.lerp(m.hazy, edit, share.view(-1, 1, 1, 1)))


def judged(model: Model, m: Material, hazy: Tensor, clear: Tensor) -> None:
    """Print what the default makes of the hazy and of the clear ones where haze is sure, and where it is in doubt as well."""
    settings = engine.DehazeSettings(batch_size=16)
    for name, pictures, truth, darkest, amount in (
        ("hazy", m.hazy, m.clear, m.darkest, hazy),
        ("clear", m.clear[::RENDERINGS], m.clear[::RENDERINGS], m.darkest_clear[::RENDERINGS], clear),
    ):
        edit = engine.dehaze(model, pictures, settings, darkest=darkest, seen=amount).result
        doubtful = torch.tensor([v.strength for v in judge(pictures, edit, amount, darkest)])
        for how, strength in {"sure": evidence_of_haze(amount, darkest), "sure or in doubt": doubtful}.items():
            after = psnr(torch.lerp(pictures, edit, strength.view(-1, 1, 1, 1)).clamp(0, 1), truth)
            print(
                f"{name}, {how}: {after.clamp_max(100).mean():.2f} dB, {int((strength > 0).sum())} of {len(after)} edited, "
                f"{int((after < 30).sum())} below 30 dB",
                flush=True,
            )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="builtin:haze")
    parser.add_argument("--limit", type=int, default=150)
    args = parser.parse_args()
    model = load_model(args.model, device="cpu")
    m = render(args.folder, args.limit, model.image_size)
    hazy, clear = seen(model, m.hazy), seen(model, m.clear[::RENDERINGS])
    for name, columns in {"seen": [hazy], "darkest": [m.darkest], "both": [hazy, m.darkest]}.items():
        w, value = least_squares(columns, m.amount)
        error = (value - m.amount).square().mean().sqrt()
        print(f"amount by {name}: RMS {error:.3f} of .1 to .65, coefficients {[round(x, 3) for x in w.tolist()]}")
    for counts in (0, 1, 2, 4, 8):
        evidence, none = hazy + counts * m.darkest, clear + counts * m.darkest_clear[::RENDERINGS]
        print(
            f"seen + {counts} darkest: AUC {separation(evidence, none):.3f}, "
            f"clear 90, 95, 97, 100 % {none.quantile(torch.tensor([0.9, 0.95, 0.97, 1])).numpy().round(2)}, "
            f"hazy 1, 5, 10 % {evidence.quantile(torch.tensor([0.01, 0.05, 0.1])).numpy().round(2)}"
        )
    thresholds(m, hazy, clear)
    gains(model, m, hazy)
    judged(model, m, hazy, clear)


if __name__ == "__main__":
    main()
