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
from torch import Tensor, nn

STRIDE = 4
"""Pixels of the picture to one of the map."""
MULTIPLE = 16
"""The network takes sides that are multiples of this many pixels."""


@dataclass(frozen=True)
class Prediction:
    """What the network says at each place (B, ·, h/4, w/4): optical depth ``tau`` ≥ 0 and the logarithm ``tau_spread`` of the
    scale of its error (Laplace), the same of the airlight (3 channels, relative to the picture's scale)."""

    tau: Tensor
    tau_spread: Tensor
    airlight: Tensor
    airlight_spread: Tensor


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.normal_(self.second.weight, std=0.2 / (3 * width**0.5))
        self.second.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(F.relu(self.first(F.relu(x))))
        return x + change


class HazeDensityNet(nn.Module):
    """(B, 3, H, W), sides multiples of ``MULTIPLE``, divided by an airlight → ``Prediction``. A small U-shaped network:
    two residual blocks at a quarter, an eighth and a sixteenth of the resolution, the whole picture's mean and maximum added
    at the coarsest, and the way back."""

    def __init__(self, widths: tuple[int, int, int, int] = (24, 40, 56, 80)) -> None:
        super().__init__()
        a, b, c, d = widths
        self.stem = nn.Conv2d(4, a, 5, stride=2, padding=2)
        self.to_quarter = nn.Conv2d(a, b, 3, stride=2, padding=1)
        self.quarter = nn.Sequential(_Residual(b), _Residual(b))
        self.to_eighth = nn.Conv2d(b, c, 3, stride=2, padding=1)
        self.eighth = nn.Sequential(_Residual(c), _Residual(c))
        self.to_sixteenth = nn.Conv2d(c, d, 3, stride=2, padding=1)
        self.sixteenth = nn.Sequential(_Residual(d), _Residual(d))
        self.whole = nn.Sequential(nn.Linear(2 * d, d), nn.ReLU(), nn.Linear(d, d))
        self.mix = _Residual(d)
        self.from_sixteenth = nn.Conv2d(d, c, 1)
        self.back_eighth = _Residual(c)
        self.from_eighth = nn.Conv2d(c, b, 1)
        self.back_quarter = _Residual(b)
        self.head = nn.Conv2d(b, 8, 3, padding=1)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, x: Tensor) -> Prediction:
        """Ask about pictures."""
        least = x.amin(1, keepdim=True)
        x = F.relu(self.stem(torch.cat([x, least], 1) - 0.5))
        quarter = self.quarter(self.to_quarter(x))
        eighth = self.eighth(self.to_eighth(F.relu(quarter)))
        deep = self.sixteenth(self.to_sixteenth(F.relu(eighth)))
        pooled = torch.cat([deep.mean((2, 3)), deep.amax((2, 3))], 1)
        deep = self.mix(deep + self.whole(pooled)[:, :, None, None])
        eighth = self.back_eighth(eighth + _twice(self.from_sixteenth(F.relu(deep))))
        quarter = self.back_quarter(quarter + _twice(self.from_eighth(F.relu(eighth))))
        out = self.head(F.relu(quarter))
        tau = F.softplus(4 * out[:, :1] - 1) / 4 * 2
        return Prediction(tau, out[:, 1:2].clamp(-5, 2) - 1, 1 + 0.3 * out[:, 2:5], out[:, 5:8].clamp(-5, 2) - 2)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


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
