"""How much clearer a photograph became, and what harm was done to it, without ground truth.

Haze takes local contrast away where it lies. So clearness is the ratio of local contrast, result over input, over the veiled
texture of the input: where its dark channel is bright and something is to be seen. Whatever raises contrast raises that ratio,
so four harms stand beside it: too dark, tinted, grainy, swallowed in black.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fpcore.evaluation.dark_channel import dark_channel
from fpcore.evaluation.windows import window_mean

LONGEST_SIDE = 512
"""Pixels at which pictures are compared: what a person sees side by side on a screen."""
WINDOW = 9
FLAT = 0.006
"""Standard deviation of luma in a window below which there is no texture."""
CLEARED_FROM = 1.35
"""Gain in local contrast from which a person sees side by side that a picture became clearer."""
LEAST_LIGHT, MOST_CAST, MOST_GRAIN, MOST_CRUSHED = 0.6, 14.0, 0.025, 0.04
NEAR_BLACK = 0.02
LEAST_VEILED = 0.01
"""Share of a picture that must be veiled texture to measure a gain by."""


@dataclass(frozen=True)
class Clarity:
    """One picture before and after.

    ``veiled``: share of the picture that is veiled texture; ``gain``: median ratio of local contrast over it, 1 where there is
    hardly any, as before fog that shows nothing, and the ratio tells nothing (``measured``). ``light``: mean luma, output over
    input. ``cast``: shift of the mean chroma (CIELAB a, b) of the flat bright part. ``grain``: median standard deviation of
    luma there, in the output. ``crushed``: share of pixels with texture that were not near black and are now.
    """

    veiled: float
    gain: float
    light: float
    cast: float
    grain: float
    crushed: float

    @property
    def harms(self) -> tuple[str, ...]:
        """Which of ``light``, ``cast``, ``grain`` and ``crushed`` are beyond what a person accepts."""
        beyond = {
            "light": self.light < LEAST_LIGHT,
            "cast": self.cast > MOST_CAST,
            "grain": self.grain > MOST_GRAIN,
            "crushed": self.crushed > MOST_CRUSHED,
        }
        return tuple(name for name, harm in beyond.items() if harm)

    @property
    def measured(self) -> bool:
        """Whether there was veiled texture to measure by."""
        return self.veiled > LEAST_VEILED

    @property
    def cleared(self) -> bool:
        """Whether a person sees it as clearer and nothing as harmed."""
        return self.gain >= CLEARED_FROM and not self.harms


def clarity(source: Tensor, result: Tensor) -> Clarity:
    """Compare ``result`` with ``source``, both (3, H, W) in [0, 1], about ``LONGEST_SIDE`` pixels long.

    Raises ValueError for pictures of different shapes.
    """
    if source.shape != result.shape or source.ndim != 3:
        raise ValueError(
            f"source and result must both be (3, H, W), not {tuple(source.shape)} and {tuple(result.shape)}"
        )
    before, after = luma(source), luma(result)
    (std_before, mean_before), (std_after, mean_after) = local_statistics(before), local_statistics(after)
    textured, veil = std_before >= FLAT, dark_channel(source[None].float())[0, 0]
    veiled = textured & (veil >= max(0.15, float(veil.median())))
    share = float(veiled.float().mean())
    ratio = std_after / (mean_after + 0.05) / (std_before / (mean_before + 0.05)).clamp_min(1e-6)
    flat = ~textured & (mean_before > 0.45)
    some_flat = float(flat.float().mean()) > 0.02
    return Clarity(
        veiled=share,
        gain=float(ratio[veiled].median()) if share > LEAST_VEILED else 1.0,
        light=float(after.mean() / before.mean().clamp_min(1e-6)),
        cast=_chroma_shift(source, result, flat) if some_flat else 0.0,
        grain=float(std_after[flat].median()) if some_flat else 0.0,
        crushed=float(((before > NEAR_BLACK) & textured & (after < NEAR_BLACK)).float().mean()),
    )


def luma(picture: Tensor) -> Tensor:
    """(3, H, W) → (H, W) float64, Rec. 601."""
    return torch.einsum("chw,c->hw", picture.double(), picture.new_tensor([0.299, 0.587, 0.114], dtype=torch.float64))


def local_statistics(y: Tensor, window: int = WINDOW) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of (H, W) in windows, mirrored at the border."""
    mean, square = (_mirrored_mean(x, window) for x in (y, y * y))
    return (square - mean.square()).clamp_min(0).sqrt(), mean


def _mirrored_mean(y: Tensor, window: int) -> Tensor:
    half = window // 2
    for dim in (0, 1):  # edge pixels included in the mirror image, as scipy's "reflect"
        at = torch.arange(-half, y.shape[dim] + half) % (2 * y.shape[dim])
        y = y.index_select(dim, torch.minimum(at, 2 * y.shape[dim] - 1 - at))
    return window_mean(y, window)


def _chroma_shift(source: Tensor, result: Tensor, where: Tensor) -> float:
    shift = cielab(result[:, where])[1:].mean(1) - cielab(source[:, where])[1:].mean(1)
    return float(shift.norm())


def cielab(picture: Tensor) -> Tensor:
    """sRGB (3, ...) in [0, 1] → CIELAB (3, ...), D65, float64 (IEC 61966-2-1, CIE 15)."""
    x = picture.double()
    linear = torch.where(x > 0.04045, ((x.clamp_min(0) + 0.055) / 1.055) ** 2.4, x / 12.92)
    to_xyz = torch.tensor(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]],
        dtype=torch.float64,
    )
    white = torch.tensor([0.95047, 1.0, 1.08883], dtype=torch.float64).view(-1, *[1] * (x.ndim - 1))
    xyz = torch.einsum("ij,j...->i...", to_xyz, linear) / white
    f = torch.where(xyz > 0.008856, xyz.clamp_min(1e-12) ** (1 / 3), 7.787 * xyz + 16 / 116)
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
