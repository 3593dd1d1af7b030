"""Haze rendered on clear photographs: the training data of ``builtin:haze`` and the demo's hazy pictures.

The atmospheric scattering model (Koschmieder; McCartney 1976):  I = J · t + A · (1 − t),  t = exp(−β d).
Depth is not known for a photograph, so a plausible one is drawn: hills or a street, drawn to the picture's own edges, and
a sky that is further away than everything else.
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
    return F.avg_pool2d(x, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


def _follow_edges(guide: Tensor, x: Tensor, radius: int, eps: float) -> Tensor:
    """Guided filter (He et al. 2013) of ``x`` by a one-channel ``guide``: smooth inside objects, sharp between them."""
    mean_g, mean_x = _box(guide, radius), _box(x, radius)
    a = (_box(guide * x, radius) - mean_g * mean_x) / (_box(guide * guide, radius) - mean_g**2 + eps)
    return _box(a, radius) * guide + _box(mean_x - a * mean_g, radius)


def _sky(luma: Tensor) -> Tensor:
    """Soft mask of what is smooth and bright down from the top edge: (B, 1, H, W) in [0, 1]."""
    gradient = (luma - _box(luma, 1)).abs()
    smooth_and_bright = torch.sigmoid((0.035 - gradient) * 200) * torch.sigmoid((luma - 0.45) * 20)
    return _box(torch.cumprod(smooth_and_bright.clamp(0.0, 0.999), dim=2), 1)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def _smooth_noise(shape: tuple[int, int, int, int], cells: int, generator: torch.Generator) -> Tensor:
    """Uniform noise on ``cells`` × ``cells`` points, enlarged to (B, 1, H, W)."""
    coarse = torch.rand((shape[0], 1, cells, cells), generator=generator, device=generator.device)
    return F.interpolate(coarse, shape[2:], mode="bicubic")


def _hilly_depth(luma: Tensor, generator: torch.Generator) -> Tensor:
    """A ramp towards the top edge, bent at random, with smooth bumps: hills, woods, whatever has no straight lines."""
    b, _, h, w = luma.shape
    y = torch.linspace(1, 0, h, device=luma.device).view(1, 1, h, 1)
    x = torch.linspace(-0.5, 0.5, w, device=luma.device).view(1, 1, 1, w)
    one = (b, 1, 1, 1)
    ramp = (y + x * _uniform(one, -0.6, 0.6, generator) - _uniform(one, 0.0, 0.4, generator)).clamp_min(0)
    ramp = ramp ** _uniform(one, 0.6, 2.0, generator)
    shape = (b, 1, h, w)
    bumps = 0.65 * _smooth_noise(shape, 4, generator) + 0.35 * _smooth_noise(shape, 9, generator)
    return ramp * _uniform(one, 0.3, 1.0, generator) + bumps * _uniform(one, 0.2, 0.9, generator)


def _street_depth(luma: Tensor, generator: torch.Generator) -> Tensor:
    """Ground in perspective, d ∝ 1/(y − horizon), and upright things, each as far away as the ground it stands on."""
    b, _, h, w = luma.shape
    one = (b, 1, 1, 1)
    y = torch.linspace(0, 1, h, device=luma.device).view(1, 1, h, 1)
    horizon = _uniform(one, 0.1, 0.75, generator)
    farthest = _uniform(one, 5.0, 40.0, generator)  # in units of the distance at which the bottom edge stands
    where = torch.rand((b, 1, 1, 12), generator=generator, device=generator.device)
    stands = F.interpolate(where ** _uniform(one, 0.5, 3.0, generator), (1, w), mode="bilinear")
    ground = torch.maximum(y, horizon + (1 - horizon) * stands)  # an upright thing hides the ground behind it
    depth = (1 - horizon) / (ground - horizon).clamp_min(1e-3)
    return torch.minimum(depth, farthest) / farthest


def random_depth(clear: Tensor, generator: torch.Generator, streets: float = 0.0) -> Tensor:
    """A plausible relative depth (B, 1, H, W), zero mean over no axis, all positive, for photographs (B, 3, H, W) in [0, 1].

    ``streets``: share of them laid out like a street, the others are hilly. ``clear`` must lie where ``generator`` draws.
    """
    b, _, h, _ = clear.shape
    one = (b, 1, 1, 1)
    luma = clear.mean(1, keepdim=True)
    depth = _hilly_depth(luma, generator)
    if streets:
        depth = torch.where(_uniform(one, 0.0, 1.0, generator) < streets, _street_depth(luma, generator), depth)
    depth = depth + _uniform(one, -0.5, 0.5, generator) * (luma - 0.5)  # near things are often darker or brighter
    depth = _follow_edges(luma, depth, radius=max(2, h // 8), eps=0.01)
    depth = depth + _sky(luma) * _uniform(one, 0.2, 1.5, generator)
    return depth - depth.amin((2, 3), keepdim=True) + _uniform(one, 0.05, 0.6, generator)


def render_haze(clear: Tensor, amount: Tensor, generator: torch.Generator, streets: float = 0.0) -> Haze:
    """Render haze on ``clear`` (B, 3, H, W) in [0, 1] so that 1 − mean t comes close to ``amount`` (B,) in [0, 1).

    β is found by bisection on the depth drawn by ``random_depth``; A is .7 to 1 and lightly tinted.
    """
    depth = random_depth(clear, generator, streets)
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
