"""What colours a grey photograph is likely to have had: the plain way to colour it, and what colorize begins with.

Two small networks are asked for the colour differences R − Y and B − Y in proportion to the luma Y, and answer with those that
look least different from all that they could be: pale where that is much. Only luma and the height in the photograph are told
(skies are above). The second was trained on from the first, on landscapes above all; where they err apart, their mean errs less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from fpcore.small_unet import MULTIPLE, SmallUNet

BUILTIN = Path(__file__).parent.parent / "builtin"
WEIGHTS = (BUILTIN / "chroma.safetensors", BUILTIN / "chroma_landscapes.safetensors")
LONGEST_SIDE = 128
"""Pixels at which the network is asked: its crops of three quarters of a side, on average, were 96."""
LEAST_LUMA = 0.15
"""Added to the luma that colour differences are in proportion to."""


class ChromaNet(SmallUNet):
    """Luma (B, 1, H, W) in [0, 1], sides multiples of ``MULTIPLE`` → R − Y and B − Y (B, 2, H/4, W/4)."""

    def __init__(self, widths: tuple[int, int, int, int] = (32, 48, 80, 112)) -> None:
        super().__init__(3, 2, widths)

    def forward(self, luma: Tensor, height: Tensor | None = None) -> Tensor:
        """``height`` (B, H): 0 at the top of the photograph, 1 at its foot; None: the whole photograph is shown."""
        b, _, h, w = luma.shape
        if height is None:
            height = ((torch.arange(h, device=luma.device) + 0.5) / h).expand(b, h)
        place = (height.view(b, 1, h, 1) - 0.5).to(luma).expand(b, 1, h, w)
        detail = luma - F.avg_pool2d(luma, 9, stride=1, padding=4, count_include_pad=False)
        differences = self.answer(torch.cat([luma - 0.5, place, 4 * detail], 1))
        return differences * (F.avg_pool2d(luma, 4) + LEAST_LUMA)


@cache
def chroma_nets() -> tuple[ChromaNet, ...]:
    """The shipped networks, in evaluation mode."""
    nets = tuple(ChromaNet() for _ in WEIGHTS)
    for net, path in zip(nets, WEIGHTS, strict=True):
        net.load_state_dict(load_file(path))
        net.eval().requires_grad_(False)
    return nets


@cache
def weights_digest() -> str:
    """SHA-256 (hex) of the shipped networks' weights."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in WEIGHTS)).hexdigest()


@torch.no_grad()
def likely_colours(luma: Tensor, nets: Sequence[ChromaNet] | None = None) -> Tensor:
    """(B, 1, H, W) in [0, 1] to pictures (B, 3, H, W) of that very luma; colours may leave [0, 1].

    The mean of the networks' answers (None: the shipped ones) to the picture and to its mirror image.
    """
    nets = chroma_nets() if nets is None else nets
    scale = LONGEST_SIDE / max(luma.shape[-2:])
    size = [max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in luma.shape[-2:]]
    asked = F.interpolate(luma.float(), size, mode="bilinear", antialias=True, align_corners=False)
    answers = torch.stack([(net(asked) + net(asked.flip(-1)).flip(-1)) / 2 for net in nets])
    found = F.interpolate(answers.mean(0), luma.shape[-2:], mode="bilinear", align_corners=False)
    return with_chroma(luma.float(), found).to(luma)


def with_chroma(luma: Tensor, differences: Tensor) -> Tensor:
    """The picture (B, 3, H, W) of a luma (B, 1, H, W), Rec. 601, and R − Y and B − Y (B, 2, H, W)."""
    red, blue = differences.unbind(1)
    green = -(0.299 * red + 0.114 * blue) / 0.587
    return luma + torch.stack([red, green, blue], 1)
