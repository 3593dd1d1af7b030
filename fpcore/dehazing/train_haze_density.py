"""Train the network that tells the density of haze:  python -m fpcore.dehazing.train_haze_density FOLDER… --out DIR

On clear photographs with rendered haze (``fpcore.builtin.real_haze``): no pairs, no depth maps. The loss is the Laplace
likelihood of optical depth and airlight under the network's own uncertainty, and the error of the photograph restored with
both. Killed and started again it goes on from its checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.segmentation import felzenszwalb
from torch import Tensor

from fpcore.builtin.photographs import list_photographs
from fpcore.builtin.real_haze import SEGMENTS, RealHaze, render_real_haze
from fpcore.builtin.train_network import Training, begin, training_options
from fpcore.dehazing.haze_density import (
    LEAST_TRANSMISSION,
    HazeDensityNet,
    Prediction,
    first_airlight,
    pooled_airlight,
)
from fpcore.small_unet import STRIDE

log = logging.getLogger(__name__)
CROP = 128
SHORT_SIDE = 288
JOINED = 0.3
"""Share of crops joined from two photographs side by side, so that no photograph is learnt by heart."""
FAR_OFF = 0.2
"""Share of pictures that are divided by an airlight far from theirs: a lamp's, a cloud's."""


@dataclass(frozen=True)
class Scene:
    """A photograph (3, H, W) uint8, short side ``SHORT_SIDE``, and its segments (H, W)."""

    pixels: Tensor
    segments: Tensor


def load_scene(path: Path) -> Scene:
    """A photograph and what belongs together in it (Felzenszwalb and Huttenlocher 2004)."""
    image = Image.open(path).convert("RGB")
    scale = SHORT_SIDE / min(image.size)
    size = (max(SHORT_SIDE, round(image.width * scale)), max(SHORT_SIDE, round(image.height * scale)))
    pixels = np.asarray(image.resize(size, Image.Resampling.BOX))
    half = np.asarray(image.resize((size[0] // 2, size[1] // 2), Image.Resampling.BOX))
    segments = Image.fromarray(segments_of(half).astype(np.int32))
    labels = np.asarray(segments.resize(size, Image.Resampling.NEAREST)).astype(np.int16)
    return Scene(torch.from_numpy(pixels.copy()).permute(2, 0, 1), torch.from_numpy(labels))


def segments_of(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """What belongs together in a picture (H, W, 3): labels (H, W) from 0 (Felzenszwalb and Huttenlocher 2004)."""
    least = max(4, pixels.shape[0] * pixels.shape[1] // 500)
    labels: npt.NDArray[np.int64] = felzenszwalb(pixels, scale=150, sigma=0.6, min_size=least).astype(np.int64)
    return labels


def draw_crops(scenes: Sequence[Scene], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``count`` crops (count, 3, CROP, CROP) in [0, 1] and their segments, some joined from two photographs."""
    drawn = [_draw_crop(scenes, generator) for _ in range(count)]
    pixels, segments = (torch.stack(x) for x in zip(*drawn, strict=True))
    joined = torch.rand(count, generator=generator) < JOINED
    at = torch.rand(count, generator=generator) * 0.6 + 0.2
    right = (torch.arange(CROP) >= at[:, None] * CROP) & joined[:, None]
    pixels = torch.where(right[:, None, None], pixels.roll(1, 0), pixels)
    segments = torch.where(right[:, None], segments.roll(1, 0) + SEGMENTS // 2, segments)
    return pixels, segments


def _draw_crop(scenes: Sequence[Scene], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    scene = scenes[int(torch.randint(len(scenes), (), generator=generator))]
    _, h, w = scene.pixels.shape
    u, v, s, squeeze, mirror = torch.rand(5, generator=generator).tolist()
    tall = int(CROP + s * (SHORT_SIDE - CROP))
    wide = min(w, int(tall * (1 + squeeze * 0.3)))
    y, x = int(u * (h - tall)), int(v * (w - wide))
    crop = scene.pixels[None, :, y : y + tall, x : x + wide].float() / 255
    crop = F.interpolate(crop, (CROP, CROP), mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1)
    labels = F.interpolate(scene.segments[None, None, y : y + tall, x : x + wide].float(), (CROP, CROP))[0, 0].long()
    return (crop.flip(-1), labels.flip(-1)) if mirror < 0.5 else (crop, labels)


def jittered_guess(haze: RealHaze, generator: torch.Generator) -> Tensor:
    """The airlight that a picture is divided by (B, 3, 1, 1): the true one, a little off, or the first guess."""
    b = len(haze.image)
    jitter = 0.07 * torch.randn((b, 1, 1, 1), generator=generator) + 0.03 * torch.randn(
        (b, 3, 1, 1), generator=generator
    )
    near = haze.airlight * torch.exp(jitter)
    hazy = haze.tau.amax((1, 2, 3), keepdim=True) > 0
    guessed = torch.rand((b, 1, 1, 1), generator=generator) < torch.where(hazy, 0.5, 0.8)
    guess = torch.where(guessed, first_airlight(haze.image, haze.evidence), near)
    far = torch.rand((b, 1, 1, 1), generator=generator) < FAR_OFF
    off = torch.exp(torch.rand((b, 1, 1, 1), generator=generator) - 0.5)
    return torch.where(far, guess * off, guess).clamp(0.1, 1.1)


def loss_of(p: Prediction, haze: RealHaze, guess: Tensor) -> dict[str, Tensor]:
    """The terms of the loss, means over the batch."""
    image, clear, tau, shown = (
        F.avg_pool2d(x, STRIDE) for x in (haze.image / guess, haze.clear / guess, haze.tau, haze.evidence)
    )
    shown = (shown > 0.99).float()
    total = shown.sum().clamp_min(1)
    airlight = haze.airlight / guess
    depth = ((tau.clamp_max(3.5) - p.tau).abs() * torch.exp(-p.tau_spread) + p.tau_spread) * shown
    veil = (1 - torch.exp(-haze.tau)).mean((1, 2, 3), keepdim=True)
    light = ((airlight - p.airlight).abs() * torch.exp(-p.airlight_spread) + p.airlight_spread) * shown
    a = pooled_airlight(p)
    restored = (image - a) / torch.exp(-p.tau).clamp_min(LEAST_TRANSMISSION) + a
    true_gain = torch.exp(-tau).clamp_min(LEAST_TRANSMISSION)
    reachable = (image - airlight) / true_gain + airlight
    target = torch.where(torch.exp(-tau) < LEAST_TRANSMISSION, reachable, clear)
    picture = (restored - target).abs() * shown
    seen = (veil > 0.03).float()
    return {
        "depth": depth.sum() / total,
        "light": (light.mean(1, keepdim=True) * seen).sum() / total,
        "airlight": ((a - airlight).abs() * seen).mean(),
        "picture": picture.mean(1).sum() / total,
    }


WEIGHTS = {"depth": 1.0, "light": 0.3, "airlight": 1.0, "picture": 6.0}


def train(
    scenes: Sequence[Scene], out: Path, minutes: float, batch: int, rate: float, seed: int, start: Path | None = None
) -> HazeDensityNet:
    """Train for ``minutes`` in all, from the weights ``start`` if given; the average of the weights comes back."""
    torch.manual_seed(seed)
    net = HazeDensityNet()

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        haze = render_real_haze(*draw_crops(scenes, batch, generator), generator)
        guess = jittered_guess(haze, generator)
        terms = loss_of(net((haze.image / guess).contiguous(memory_format=torch.channels_last)), haze, guess)
        return torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum(), terms

    average = Training(out, "haze_density", minutes, rate, 1e-4, 0.5, seed).of(net, loss, start)
    assert isinstance(average, HazeDensityNet)
    return average


def main() -> None:
    """The command line."""
    parser = training_options("fpcore.dehazing.train_haze_density", __doc__, minutes=30, batch=24)
    parser.add_argument("--without", type=Path, help="file of names, one a line, to keep out of training")
    args = parser.parse_args()
    begin(args)
    kept_out = set(args.without.read_text().split("\n")) if args.without else set()
    paths = [path for path, _ in list_photographs(args.folders) if path.name not in kept_out]
    scenes = [load_scene(path) for path in paths]
    log.info("%d photographs", len(scenes))
    train(scenes, args.out, args.minutes, args.batch_size, args.learning_rate, args.seed, args.start)


if __name__ == "__main__":
    main()
