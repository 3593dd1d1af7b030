"""Density of haze as a map, with its uncertainty, and the airlight, from one small network.

Within a small window depth is nearly constant, so optical depth can be learnt from clear photographs with rendered haze:
no pairs and no depth maps (DehazeNet, Cai et al. 2016; Tang et al. 2014). Local evidence decides; the whole picture, pooled,
says what kind of picture it is. The network is asked about the picture divided by the airlight, so that it need not know how
bright or coloured haze can be: its own answer, an airlight relative to the first guess, corrects that guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.evaluation.dark_channel import dark_channel
from fpcore.small_unet import SmallUNet

WINDOWS = (1, 9, 25)
"""Pixels of the windows whose dark channels (He et al. 2009) the network is shown; 1: the least of the colours."""
LEAST_TRANSMISSION = 0.1
"""The least transmission that haze is read as and taken off by: where t is smaller, next to nothing can be brought back."""


@dataclass(frozen=True)
class Prediction:
    """What the network says at each place (B, ·, h/4, w/4): optical depth ``tau`` ≥ 0 and the logarithm ``tau_spread`` of the
    scale of its error (Laplace), the same of the airlight (3 channels, relative to the picture's scale)."""

    tau: Tensor
    tau_spread: Tensor
    airlight: Tensor
    airlight_spread: Tensor


class HazeDensityNet(SmallUNet):
    """(B, 3, H, W), sides multiples of ``MULTIPLE``, divided by an airlight → ``Prediction``."""

    def __init__(self, widths: tuple[int, int, int, int] = (24, 40, 56, 80)) -> None:
        super().__init__(3 + len(WINDOWS), 8, widths)

    def forward(self, x: Tensor) -> Prediction:
        """Ask about pictures."""
        dark = [dark_channel(x, side) for side in WINDOWS]
        out = self.answer(torch.cat([x, *dark], 1) - 0.5)
        tau = F.softplus(4 * out[:, :1] - 1) / 4 * 2
        return Prediction(tau, out[:, 1:2].clamp(-5, 2) - 1, 1 + 0.3 * out[:, 2:5], out[:, 5:8].clamp(-5, 2) - 2)


def pooled_airlight(p: Prediction) -> Tensor:
    """(B, 3, 1, 1): mean over the picture weighted by precision."""
    weight = torch.exp(-2 * p.airlight_spread)
    return (weight * p.airlight).sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True)


def first_airlight(image: Tensor, evidence: Tensor | None = None) -> Tensor:
    """First guess (B, 3, 1, 1): mean colour of the 0.1 % of pixels whose 7 × 7 dark channel is brightest."""
    if evidence is not None:
        image = image * evidence
    dark = -F.max_pool2d(-image.amin(1, keepdim=True), 7, stride=1, padding=3)
    haziest = dark.flatten(1).topk(max(1, dark[0].numel() // 1000), dim=1).indices
    colours = image.flatten(2).gather(2, haziest[:, None].expand(-1, 3, -1))
    return colours.mean(2).clamp_min(0.1)[:, :, None, None]
