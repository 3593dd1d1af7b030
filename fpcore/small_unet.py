"""A small U-shaped network for maps that a whole photograph decides together with each place: haze, colour."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 4
"""Pixels of the picture to one of the map."""
MULTIPLE = 16
"""The network takes sides that are multiples of this many pixels."""


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


class SmallUNet(nn.Module):
    """(B, ``channels``, H, W), sides multiples of ``MULTIPLE`` → (B, ``answers``, H/4, W/4).

    Two residual blocks at a quarter, an eighth and a sixteenth of the resolution, the whole picture's mean and maximum added at
    the coarsest, and the way back.
    """

    def __init__(self, channels: int, answers: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        a, b, c, d = widths
        self.stem = nn.Conv2d(channels, a, 5, stride=2, padding=2)
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
        self.head = nn.Conv2d(b, answers, 3, padding=1)
        nn.init.normal_(self.head.weight, std=0.01)

    def answer(self, x: Tensor) -> Tensor:
        """What the head says."""
        x = F.relu(self.stem(x))
        quarter = self.quarter(self.to_quarter(x))
        eighth = self.eighth(self.to_eighth(F.relu(quarter)))
        deep = self.sixteenth(self.to_sixteenth(F.relu(eighth)))
        pooled = torch.cat([deep.mean((2, 3)), deep.amax((2, 3))], 1)
        deep = self.mix(deep + self.whole(pooled)[:, :, None, None])
        eighth = self.back_eighth(eighth + _twice(self.from_sixteenth(F.relu(deep))))
        quarter = self.back_quarter(quarter + _twice(self.from_eighth(F.relu(eighth))))
        said: Tensor = self.head(F.relu(quarter))
        return said


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
