"""What a photograph has lost, as a linear operator on pixels with a right inverse: y = A x, A A⁺ = 1.

    P(x) = x + A⁺ (y − A x)

is the picture nearest to x, along A⁺, that the photograph y does not contradict: A P(x) = y. What P keeps of x, its
part in the null space of A, is what has to be invented (Wang et al. 2023, DDNM). Pictures are (B, 3, H, W) in [0, 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

MEMBRANE_SWEEPS, PLATE_SWEEPS = 32, 64
PLATE_STEP = 0.015
"""Of a plate's iteration; it would not settle from 2/64 on."""
LEAST_PLATE = 4
"""Side of the coarsest picture that is filled like a plate."""
LUMA = (0.299, 0.587, 0.114)
"""Rec. 601, as JPEG and most black-and-white conversions use it."""


def luma(picture: Tensor) -> Tensor:
    """(B, 3, H, W) to (B, 1, H, W)."""
    return (picture * picture.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _room(x: Tensor, base: Tensor) -> Tensor:
    """The largest k ≤ 1, elementwise, for which base + k (x − base) lies in [0, 1]; ``base`` does."""
    change = x - base
    return (torch.where(change > 0, 1 - base, base) / change.abs()).nan_to_num(1.0, 1.0).clamp_max(1.0)


@dataclass(frozen=True)
class Degradation(ABC):
    """One kind of loss, and what B photographs still say: their measurements y."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """P(x): ``x`` (B, 3, H, W), changed along A⁺ until it says what the photographs say."""

    @abstractmethod
    def in_gamut(self, x: Tensor) -> Tensor:
        """P(x) with its invented part scaled down where colours would leave [0, 1]; A of the result is still y."""

    @abstractmethod
    def start(self) -> Tensor:
        """A plain picture (B, 3, H, W) with A x = y to invert: nothing invented but smoothness."""

    @abstractmethod
    def error(self, x: Tensor) -> Tensor:
        """The largest |A x − y| of each picture, (B,)."""

    def rows(self, index: Tensor) -> Self:
        """Those of some photographs."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{k: v[index] if isinstance(v, Tensor) else v for k, v in values.items()})


@dataclass(frozen=True)
class Grey(Degradation):
    """Only the luma is known: A x = w · x, A⁺ y = (y, y, y). ``measured`` (B, 1, H, W).

    A⁺ adds grey, so that P changes no colour difference (R − Y, B − Y); w · (1, 1, 1) = 1. ``likely`` (B, 3, H, W): pictures in
    likely colours to begin with; None: the grey ones.
    """

    measured: Tensor
    likely: Tensor | None = None

    @classmethod
    def of(cls, pictures: Tensor, likely: Tensor | None = None) -> Grey:
        """What is left of ``pictures`` (B, 3, H, W) without their colour."""
        return cls(luma(pictures), likely)

    def grey(self) -> Tensor:
        """A⁺ y: the grey photographs (B, 3, H, W)."""
        return self.measured.expand(-1, 3, -1, -1)

    def project(self, x: Tensor) -> Tensor:
        """See Degradation."""
        return x + (self.measured - luma(x))

    def in_gamut(self, x: Tensor) -> Tensor:
        """See Degradation: colours are made paler, all three of a pixel alike."""
        base = self.grey()
        x = self.project(x)
        return base + _room(x, base).amin(1, keepdim=True) * (x - base)

    def start(self) -> Tensor:
        """See Degradation: the photograph in likely colours, or grey."""
        return self.grey() if self.likely is None else self.in_gamut(self.likely)

    def error(self, x: Tensor) -> Tensor:
        """See Degradation."""
        return (luma(x) - self.measured).abs().flatten(1).amax(1)


@dataclass(frozen=True)
class Hole(Degradation):
    """Only the pixels outside a hole are known: A keeps them, A⁺ puts them back.

    ``measured`` (B, 3, H, W), whatever lies in the hole; ``hole`` (B, 1, H, W) bool.
    """

    measured: Tensor
    hole: Tensor

    def project(self, x: Tensor) -> Tensor:
        """See Degradation."""
        return torch.where(self.hole, x, self.measured)

    def in_gamut(self, x: Tensor) -> Tensor:
        """See Degradation: the hole's pixels are free, so clipping them contradicts nothing."""
        return torch.where(self.hole, x.clamp(0, 1), self.measured)

    def start(self) -> Tensor:
        """See Degradation: the hole filled smoothly from its border."""
        return self.in_gamut(fill_smoothly(self.measured, self.hole, plate=True))

    def error(self, x: Tensor) -> Tensor:
        """See Degradation."""
        return torch.where(self.hole, 0, x - self.measured).abs().flatten(1).amax(1)


@dataclass(frozen=True)
class Average(Degradation):
    """Only averages over ``factor`` × ``factor`` pixels are known; A⁺ repeats them (so A⁺ is A's pseudo-inverse).

    ``measured`` (B, 3, H / factor, W / factor).
    """

    measured: Tensor
    factor: int

    def project(self, x: Tensor) -> Tensor:
        """See Degradation."""
        return x + self._repeat(self.measured - F.avg_pool2d(x, self.factor))

    def in_gamut(self, x: Tensor) -> Tensor:
        """See Degradation: the detail of a block is made fainter."""
        base = self._repeat(self.measured)
        x = self.project(x)
        return base + self._repeat(-F.max_pool2d(-_room(x, base), self.factor)) * (x - base)

    def start(self) -> Tensor:
        """See Degradation: bicubic interpolation, its averages corrected."""
        wide = F.interpolate(self.measured, scale_factor=self.factor, mode="bicubic", align_corners=False)
        return self.project(wide)

    def error(self, x: Tensor) -> Tensor:
        """See Degradation."""
        return (F.avg_pool2d(x, self.factor) - self.measured).abs().flatten(1).amax(1)

    def _repeat(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)


def fill_smoothly(picture: Tensor, hole: Tensor, *, plate: bool = False) -> Tensor:
    """``picture`` (B, C, H, W) with ``hole`` (B, 1, H, W) bool filled from its border, like a membrane or like a thin plate.

    A membrane solves Δx = 0 and stays within the values of the border; a plate, Δ²x = 0, goes on with their slope. Both
    approximately: from coarse to fine (pull and push, Gortler et al. 1996), at each level some of Jacobi's iterations.
    A picture that is all hole turns grey.
    """
    known = (~hole).to(picture.dtype)
    if bool(hole.any()) is False:
        return picture
    height, width = picture.shape[-2:]
    if max(height, width) == 1:
        return torch.where(hole, 0.5, picture)
    if min(height, width) > 1:
        weight = F.avg_pool2d(known, 2, ceil_mode=True)
        coarse = F.avg_pool2d(picture * known, 2, ceil_mode=True) / weight.clamp_min(1e-6)
        plate_below = plate and max(coarse.shape[-2:]) > LEAST_PLATE
        guess = F.interpolate(fill_smoothly(coarse, weight == 0, plate=plate_below), (height, width), mode="bilinear")
    else:
        guess = (picture * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp_min(1)
    x = torch.where(hole, guess.expand_as(picture), picture)
    for _ in range(PLATE_SWEEPS if plate else MEMBRANE_SWEEPS):
        change = -PLATE_STEP * _laplacian(_laplacian(x)) if plate else _laplacian(x) / 4
        x = torch.where(hole, x + change, x)
    return x


def _laplacian(x: Tensor) -> Tensor:
    """Δx by differences to the four neighbours, mirrored at the picture's border."""
    p = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return p[..., 1:-1, :-2] + p[..., 1:-1, 2:] + p[..., :-2, 1:-1] + p[..., 2:, 1:-1] - 4 * x
