"""Haze rendered on clear photographs as it looks in real ones: near things clear, far ones veiled, steps between them.

The atmospheric scattering model (Koschmieder; McCartney 1976):  I = J t + A (1 − t),  t = exp(−τ).
Depth is not known for a photograph. A plausible one is drawn: a receding ground plane and smooth bumps, constant inside
segments of the photograph for a part (an object has one depth), smooth along its edges for the rest; the nearest part
is often free of haze altogether; the sky is further away than everything else; some haze is even, and some lies behind
dark things alone, as fog behind branches.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fpcore.builtin.rendered_haze import random_depth, sky_mask

DEEPEST = 4.0
"""Largest optical depth: t = .018, where nothing is left to be seen."""
SEGMENTS = 256
BEHIND_DARK = 0.3
"""Share of hazes that lie behind the dark things of a photograph."""
OVERALL = 0.25
"""Share of hazes, of the others, that begin before the nearest thing."""
PATCHY = 0.2
"""Share of hazes that are patches, as of smoke or fog in a valley."""
OUTSHONE = 0.3
"""Share of hazes that are darker than the brightest things of the photograph, as fog in a wood below a bright sky."""
UNEVEN_LIGHT = 0.3
"""Share of hazes whose airlight changes much from one side of the photograph to the other."""


@dataclass(frozen=True)
class RealHaze:
    """``image`` and ``clear`` (B, 3, H, W) in [0, 1], optical depth ``tau`` (B, 1, H, W), ``airlight`` (B, 3, 1, 1), and
    ``evidence`` (B, 1, H, W): 0 where a frame or a caption hides the photograph."""

    image: Tensor
    clear: Tensor
    tau: Tensor
    airlight: Tensor
    evidence: Tensor


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def _chance(count: int, share: float, generator: torch.Generator) -> Tensor:
    """(count, 1, 1, 1), true for ``share`` of them."""
    return torch.rand((count, 1, 1, 1), generator=generator) < share


def per_segment(x: Tensor, segments: Tensor) -> Tensor:
    """Mean of ``x`` (B, 1, H, W) over each segment of ``segments`` (B, H, W), 0 ≤ label < ``SEGMENTS``."""
    index = segments.flatten(1) % SEGMENTS
    zero = torch.zeros((len(x), SEGMENTS), device=x.device)
    total = zero.scatter_add(1, index, x.flatten(1))
    count = zero.scatter_add(1, index, torch.ones_like(x.flatten(1)))
    return (total / count.clamp_min(1)).gather(1, index).view_as(x)


def optical_depth(clear: Tensor, segments: Tensor, generator: torch.Generator) -> Tensor:
    """A plausible optical depth (B, 1, H, W) in [0, DEEPEST] for photographs (B, 3, H, W) and their segments (B, H, W)."""
    b, one = len(clear), (len(clear), 1, 1, 1)
    half = random_depth(F.avg_pool2d(clear, 2), generator)
    smooth = F.interpolate(half, clear.shape[2:], mode="bilinear", align_corners=False)
    jitter = torch.randn((b, SEGMENTS), generator=generator).gather(1, segments.flatten(1) % SEGMENTS).view_as(smooth)
    spread = smooth.std((2, 3), keepdim=True)
    steps = per_segment(smooth, segments) + jitter * spread * _uniform(one, 0.0, 1.0, generator)
    depth = torch.lerp(smooth, steps, (_uniform(one, -0.4, 1.4, generator)).clamp(0, 1))
    share = torch.where(_chance(b, 0.6, generator), _uniform(one, 0.0, 0.5, generator), torch.zeros(one))
    nearest = depth.amin((2, 3), keepdim=True) - spread * _uniform(one, 0.0, 2.0, generator)
    free = torch.where(share > 0, _quantile(depth, share), nearest)
    depth = (depth - free).clamp_min(0)
    even = torch.where(_chance(b, 0.5, generator), _uniform(one, 0.6, 1.1, generator).clamp_max(1), torch.zeros(one))
    depth = torch.lerp(depth, depth.mean((2, 3), keepdim=True), even)
    depth = torch.where(_chance(b, OVERALL, generator), smooth, depth)
    depth = torch.where(_chance(b, BEHIND_DARK, generator), behind_dark(clear, segments, smooth, generator), depth)
    patchy = _chance(b, PATCHY, generator)
    depth = torch.where(patchy, depth * patches(b, clear.shape[2:], generator), depth)
    far = _quantile(depth, torch.full(one, 0.9)).clamp_min(1e-3)
    sky = sky_mask(clear.mean(1, keepdim=True)) * (_chance(b, 0.8, generator) & ~patchy)
    depth = torch.maximum(depth, torch.lerp(depth, far * _uniform(one, 1.0, 2.0, generator), sky))
    transmission = _uniform(one, 0.05, 0.97, generator)
    return (-transmission.log() * depth / far).clamp(0, DEEPEST)


def patches(count: int, size: torch.Size, generator: torch.Generator) -> Tensor:
    """(count, 1, *size) in [0, 1]: 1 inside patches with soft edges, 0 between them."""
    one = (count, 1, 1, 1)
    coarse = F.interpolate(torch.rand((count, 1, 4, 4), generator=generator), size, mode="bicubic")
    fine = F.interpolate(torch.rand((count, 1, 10, 10), generator=generator), size, mode="bicubic")
    cloud = torch.lerp(coarse, fine, _uniform(one, 0.0, 0.4, generator))
    cut = _quantile(cloud, _uniform(one, 0.1, 0.7, generator))
    return ((cloud - cut) / _uniform(one, 0.05, 0.4, generator)).clamp(0, 1)


def outshining(scene: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, H, W) in [0, 1]: 1 in the brightest parts of ``scene`` (B, 3, H, W), softly bounded."""
    one = (len(scene), 1, 1, 1)
    luma = scene.mean(1, keepdim=True)
    cut = _quantile(luma, _uniform(one, 0.6, 0.98, generator))
    return ((luma - cut) / _uniform(one, 0.02, 0.15, generator)).clamp(0, 1)


def behind_dark(clear: Tensor, segments: Tensor, smooth: Tensor, generator: torch.Generator) -> Tensor:
    """Relative depth (B, 1, H, W): 0 for the darkest part of each photograph, which stands near, more behind it."""
    one = (len(clear), 1, 1, 1)
    luma = clear.mean(1, keepdim=True)
    luma = torch.lerp(luma, per_segment(luma, segments), _uniform(one, 0.0, 1.0, generator))
    cut = _quantile(luma, _uniform(one, 0.02, 0.6, generator))
    behind = ((luma - cut) / _uniform(one, 0.02, 0.3, generator)).clamp(0, 1)
    nearest, farthest = smooth.amin((2, 3), keepdim=True), smooth.amax((2, 3), keepdim=True)
    further = (smooth - nearest) / (farthest - nearest).clamp_min(1e-3)
    return behind * torch.lerp(torch.ones_like(further), further, _uniform(one, 0.0, 0.9, generator))


def _quantile(x: Tensor, share: Tensor) -> Tensor:
    """The value that ``share`` (B, 1, 1, 1) of each picture's are below, from every fourth of them."""
    order = x.flatten(1)[:, ::4].sort(1).values
    return order.gather(1, (share.view(-1, 1) * (order.shape[1] - 1)).long()).view(-1, 1, 1, 1)


def random_airlight(count: int, generator: torch.Generator) -> Tensor:
    """(count, 3, 1, 1) in [.3, 1]: from twilight to white, between bluish and brown more than between green and magenta."""
    one = (count, 1)
    light = torch.where(torch.rand(one, generator=generator) < 0.7, _uniform(one, 0.62, 1.0, generator),
                        _uniform(one, 0.4, 0.8, generator))  # fmt: skip
    warm = 0.05 * torch.randn(one, generator=generator)
    green = 0.02 * torch.randn(one, generator=generator)
    colour = light * (1 + torch.cat([warm - green / 2, green, -warm - green / 2], 1))
    return colour.clamp(0.3, 1.0).view(count, 3, 1, 1)


def vary_light(clear: Tensor, generator: torch.Generator) -> Tensor:
    """The photographs (B, 3, H, W) in [0, 1] under another light: gamma, contrast, saturation, white balance."""
    b, one = len(clear), (len(clear), 1, 1, 1)
    gamma = torch.exp(0.25 * torch.randn(one, generator=generator)).clamp(0.6, 1.7)
    x = clear.clamp(1e-4, 1) ** gamma
    x = x.mean(1, keepdim=True) + (x - x.mean(1, keepdim=True)) * _uniform(one, 0.65, 1.15, generator)
    x = x * torch.exp(0.06 * torch.randn((b, 3, 1, 1), generator=generator)) * _uniform(one, 0.7, 1.05, generator)
    mean = x.mean((1, 2, 3), keepdim=True)
    return (mean + (x - mean) * _uniform(one, 0.92, 1.15, generator)).clamp(0, 1)


def _camera(image: Tensor, generator: torch.Generator) -> Tensor:
    """Sensor noise on most, JPEG on half, eight bits on all."""
    b = len(image)
    sigma = torch.where(
        _chance(b, 0.7, generator), _uniform((b, 1, 1, 1), 0, 0.018, generator), torch.zeros(b, 1, 1, 1)
    )
    noisy = (image + sigma * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    pixels = (noisy * 255).round().byte().permute(0, 2, 3, 1).numpy()
    qualities = torch.randint(45, 97, (b,), generator=generator).tolist()
    compressed = torch.rand(b, generator=generator) < 0.5
    out = np.empty_like(pixels)
    for i in range(b):
        out[i] = _jpeg(pixels[i], qualities[i]) if compressed[i] else pixels[i]
    return torch.from_numpy(out).permute(0, 3, 1, 2).float() / 255


def _jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def _hide(image: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Frames around one in twelve, a caption or a bar on as many: the pictures, and 1 where the photograph shows."""
    image, evidence = image.clone(), torch.ones_like(image[:, :1])
    _, _, h, w = image.shape
    for i in range(len(image)):
        kind, shade, a, c, d, e = torch.rand(6, generator=generator).tolist()
        if kind > 0.17:
            continue
        mask = torch.zeros(h, w, dtype=torch.bool)
        if kind < 0.085:
            top, side = int(a * 0.16 * h), int(c * 0.16 * w) if d < 0.7 else 0
            mask[:] = True
            mask[top : h - top, side : w - side] = False
        else:
            y, x = int(a * h * 0.9), int(c * w * 0.6)
            mask[y : y + 3 + int(d * 0.08 * h), x : x + 10 + int(e * 0.5 * w)] = True
            if shade > 0.5:  # letters: every other stroke
                mask &= (torch.rand((h, w // 2 + 1), generator=generator) < 0.6).repeat_interleave(2, 1)[:, :w]
        image[i][:, mask] = 0.0 if shade < 0.4 else 1.0 if shade < 0.8 else (shade - 0.8) * 5
        evidence[i, 0][mask] = 0
    return image, evidence


def render_real_haze(
    clear: Tensor, segments: Tensor, generator: torch.Generator, *, clear_share: float = 0.2, hide: bool = True,
    camera: bool = True,
) -> RealHaze:  # fmt: skip
    """Haze on photographs ``clear`` (B, 3, H, W) in [0, 1] with their ``segments`` (B, H, W); ``clear_share`` get none.

    ``hide``: frames and captions on some; ``camera``: noise and JPEG.
    """
    b, one = len(clear), (len(clear), 1, 1, 1)
    scene = vary_light(clear, generator)
    tau = torch.where(_chance(b, clear_share, generator), 0.0, optical_depth(clear, segments, generator))
    airlight = random_airlight(b, generator)
    outshone = _chance(b, OUTSHONE, generator)
    tau = torch.where(outshone, tau * (1 - outshining(scene, generator)), tau)
    airlight = torch.where(outshone, airlight * _uniform(one, 0.5, 1.0, generator), airlight)
    tinted = scene * (airlight / airlight.mean(1, keepdim=True)) ** _uniform(one, 0.0, 1.0, generator)
    scene = torch.where(tau.amax((1, 2, 3), keepdim=True) > 0, tinted, scene).clamp(0, 1)
    slope = torch.where(_chance(b, UNEVEN_LIGHT, generator), 0.12, 0.04) * torch.randn(
        (b, 2, 1, 1), generator=generator
    )
    h, w = clear.shape[2:]
    y, x = torch.linspace(-1, 1, h).view(1, 1, h, 1), torch.linspace(-1, 1, w).view(1, 1, 1, w)
    uneven = airlight * (1 + slope[:, :1] * y + slope[:, 1:] * x)
    t = torch.exp(-tau)
    image = (scene * t + uneven * (1 - t)).clamp(0, 1)
    image = _camera(image, generator) if camera else image
    image, evidence = _hide(image, generator) if hide else (image, torch.ones_like(tau))
    return RealHaze(image, scene, tau, airlight, evidence)
