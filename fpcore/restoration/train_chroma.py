"""Train the network that tells likely colours:  python -m fpcore.restoration.train_chroma FOLDER… --out DIR

On photographs in colour alone. The loss is how different the colours look, the colour difference CIE94 in its symmetric form.
Photographs that ``is_kept_out`` names are never trained on. Killed and started again it goes on from its checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fpcore.builtin.photographs import is_kept_out, list_photographs
from fpcore.builtin.train_network import Training, begin, training_options
from fpcore.evaluation.clarity import cielab
from fpcore.restoration.chroma import ChromaNet, with_chroma
from fpcore.restoration.degradation import luma
from fpcore.small_unet import STRIDE

log = logging.getLogger(__name__)
CROP = 96
SHORT_SIDE = 112
GREY_BELOW = 0.01
"""Mean absolute colour difference of a photograph that has no colours to learn from."""


def load(path: Path) -> Tensor:
    """A photograph (3, H, W) uint8, short side ``SHORT_SIDE``."""
    file = Image.open(path)
    file.draft("RGB", (2 * SHORT_SIDE, 2 * SHORT_SIDE))
    image = file.convert("RGB")
    scale = SHORT_SIDE / min(image.size)
    size = (max(SHORT_SIDE, round(image.width * scale)), max(SHORT_SIDE, round(image.height * scale)))
    return torch.from_numpy(np.array(image.resize(size, Image.Resampling.BOX))).permute(2, 0, 1)


def differences(pictures: Tensor) -> Tensor:
    """R − Y and B − Y (B, 2, H, W) of pictures (B, 3, H, W)."""
    return pictures[:, [0, 2]] - luma(pictures)


def draw(photos: Sequence[Tensor], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``count`` crops (count, 3, CROP, CROP) in [0, 1], squeezed from at least half of either side, and their heights."""
    pixels, heights = [], []
    for _ in range(count):
        photo = photos[int(torch.randint(len(photos), (), generator=generator))]
        _, h, w = photo.shape
        u, v, tall, wide, mirror, light = torch.rand(6, generator=generator).tolist()
        ch, cw = int(h * (0.5 + 0.5 * tall)), int(w * (0.5 + 0.5 * wide))
        y, x = int(u * (h - ch + 1)), int(v * (w - cw + 1))
        crop = photo[None, :, y : y + ch, x : x + cw].float() / 255
        crop = F.interpolate(crop, (CROP, CROP), mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1)
        crop = crop ** (0.8 + 0.5 * light)
        pixels.append(crop.flip(-1) if mirror < 0.5 else crop)
        heights.append((y + (torch.arange(CROP) + 0.5) * ch / CROP) / h)
    return torch.stack(pixels), torch.stack(heights)


def difference_seen(found: Tensor, true: Tensor) -> Tensor:
    """Mean colour difference CIE94 of pictures (B, 3, H, W), sRGB, with the mean of both chromas in its weights."""
    (l1, a1, b1), (l2, a2, b2) = (cielab(x.clamp(1e-3, 1).transpose(0, 1)) for x in (found, true))
    c1, c2 = (a1**2 + b1**2 + 1e-3).sqrt(), (a2**2 + b2**2 + 1e-3).sqrt()
    chroma = (c1 - c2) ** 2
    hue = ((a1 - a2) ** 2 + (b1 - b2) ** 2 - chroma).clamp_min(0)
    mean = (c1 + c2) / 2
    squares = (l1 - l2) ** 2 + chroma / (1 + 0.045 * mean) ** 2 + hue / (1 + 0.015 * mean) ** 2
    mean_difference: Tensor = (squares + 0.05).sqrt().mean()
    return mean_difference


def train(
    photos: Sequence[Tensor], out: Path, minutes: float, batch: int, rate: float, seed: int, start: Path | None = None
) -> ChromaNet:
    """Train for ``minutes`` in all, from the weights ``start`` if given; the average of the weights comes back."""
    torch.manual_seed(seed)
    net = ChromaNet()

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        pictures, heights = draw(photos, batch, generator)
        grey = luma(pictures)
        found = net(grey.contiguous(memory_format=torch.channels_last), heights)
        small, known = F.avg_pool2d(pictures, STRIDE), F.avg_pool2d(grey, STRIDE)
        difference = difference_seen(with_chroma(known, found), small)
        return difference, {"difference": difference, "of grey": difference_seen(known.expand_as(small), small)}

    average = Training(out, "chroma", minutes, rate, 1e-2, 0.6, seed).of(net, loss, start)
    assert isinstance(average, ChromaNet)
    return average


def main() -> None:
    """The command line."""
    args = training_options("fpcore.restoration.train_chroma", __doc__, minutes=40, batch=32).parse_args()
    begin(args)
    photos = [load(path) for path, _ in list_photographs(args.folders) if not is_kept_out(path)]
    photos = [photo for photo in photos if float(differences(photo[None].float() / 255).abs().mean()) > GREY_BELOW]
    log.info("%d photographs", len(photos))
    train(photos, args.out, args.minutes, args.batch_size, args.learning_rate, args.seed, args.start)


if __name__ == "__main__":
    main()
