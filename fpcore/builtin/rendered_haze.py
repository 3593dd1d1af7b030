"""Haze rendered on clear photographs: the training data of ``builtin:haze`` and the demo's hazy pictures.

The atmospheric scattering model (Koschmieder; McCartney 1976):  I = J · t + A · (1 − t),  t = exp(−β d).
Depth is not known for a photograph, so a plausible one is drawn: a receding ground plane, smooth bumps that follow
the picture's own edges, and a sky that is further away than everything else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Haze:
    """A hazy rendering: ``image`` (B, 3, H, W) in [0, 1], ``transmission`` (B, 1, H, W), ``amount`` (B,) = 1 − mean t."""

    image: Tensor
    transmission: Tensor
    amount: Tensor


def _box(x: Tensor, radius: int) -> Tensor:
    size = 2 * radius + 1  # a window's mean is the mean of its rows' means
    x = F.avg_pool2d(x, (1, size), stride=1, padding=(0, radius), count_include_pad=False)
    return F.avg_pool2d(x, (size, 1), stride=1, padding=(radius, 0), count_include_pad=False)


def _follow_edges(guide: Tensor, x: Tensor, radius: int, eps: float) -> Tensor:
    """Guided filter (He et al. 2013) of ``x`` by a one-channel ``guide``: smooth inside objects, sharp between them."""
    mean_g, mean_x = _box(guide, radius), _box(x, radius)
    a = (_box(guide * x, radius) - mean_g * mean_x) / (_box(guide * guide, radius) - mean_g**2 + eps)
    return _box(a, radius) * guide + _box(mean_x - a * mean_g, radius)


def sky_mask(luma: Tensor) -> Tensor:
    """Soft mask of what is smooth and bright down from the top edge: (B, 1, H, W) in [0, 1]."""
    gradient = (luma - _box(luma, 1)).abs()
    smooth_and_bright = torch.sigmoid((0.035 - gradient) * 200) * torch.sigmoid((luma - 0.45) * 20)
    return _box(torch.cumprod(smooth_and_bright.clamp(0.0, 0.999), dim=2), 1)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def random_depth(clear: Tensor, generator: torch.Generator) -> Tensor:
    """A plausible relative depth (B, 1, H, W), zero mean over no axis, all positive, for photographs (B, 3, H, W) in [0, 1].

    ``clear`` must lie where ``generator`` draws.
    """
    b, _, h, w = clear.shape
    luma = clear.mean(1, keepdim=True)
    y = torch.linspace(1, 0, h, device=luma.device).view(1, 1, h, 1)
    x = torch.linspace(-0.5, 0.5, w, device=luma.device).view(1, 1, 1, w)
    one = (b, 1, 1, 1)
    ramp = (y + x * _uniform(one, -0.6, 0.6, generator) - _uniform(one, 0.0, 0.4, generator)).clamp_min(0)
    ramp = ramp ** _uniform(one, 0.6, 2.0, generator)
    coarse = torch.rand((b, 1, 4, 4), generator=generator, device=generator.device)
    fine = torch.rand((b, 1, 9, 9), generator=generator, device=generator.device)
    bumps = 0.65 * F.interpolate(coarse, (h, w), mode="bicubic") + 0.35 * F.interpolate(fine, (h, w), mode="bicubic")
    depth = ramp * _uniform(one, 0.3, 1.0, generator) + bumps * _uniform(one, 0.2, 0.9, generator)
    depth = depth + _uniform(one, -0.5, 0.5, generator) * (luma - 0.5)  # near things are often darker or brighter
    depth = _follow_edges(luma, depth, radius=max(2, h // 8), eps=0.01)
    depth = depth + sky_mask(luma) * _uniform(one, 0.2, 1.5, generator)
    return depth - depth.amin((2, 3), keepdim=True) + _uniform(one, 0.05, 0.6, generator)


def random_evenness(count: int, generator: torch.Generator) -> Tensor:
    """How even each of ``count`` hazes is, for ``render_haze``: 0 for two in seven, the rest anything up to 1."""
    return _uniform((count,), -0.4, 1.0, generator).clamp_min(0)


def render_haze(clear: Tensor, amount: Tensor, generator: torch.Generator, *, evenness: Tensor | None = None) -> Haze:
    """Render haze on ``clear`` (B, 3, H, W) in [0, 1] so that 1 − mean t comes close to ``amount`` (B,) in [0, 1).

    β is found by bisection on the drawn depth; A is .7 to 1 and lightly tinted. ``evenness`` (B,) in [0, 1]: 0 or None
    leaves the depth as drawn, 1 is the same depth everywhere: mist close by, glare, a view of something far away.
    """
    depth = random_depth(clear, generator)
    if evenness is not None:
        depth = torch.lerp(depth, depth.mean((2, 3), keepdim=True), evenness.view(-1, 1, 1, 1))
    target = (1 - amount).view(-1, 1, 1, 1)
    low, high = torch.zeros_like(target), torch.full_like(target, 20.0)
    for _ in range(14):
        beta = (low + high) / 2
        too_thin = torch.exp(-beta * depth).mean((2, 3), keepdim=True) > target
        low, high = torch.where(too_thin, beta, low), torch.where(too_thin, high, beta)
    transmission = torch.exp(-(low + high) / 2 * depth)
    transmission = torch.where(target >= 1, torch.ones_like(transmission), transmission)
    b = clear.shape[0]
    airlight = _uniform((b, 1, 1, 1), 0.7, 1.0, generator)
    airlight = airlight + 0.025 * torch.randn((b, 3, 1, 1), generator=generator, device=generator.device)
    image = clear * transmission + airlight.clamp(0, 1) * (1 - transmission)
    return Haze(image, transmission, 1 - transmission.mean((1, 2, 3)))
