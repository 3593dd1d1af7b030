"""CIEDE2000: how different two colours look to a person (Sharma, Wu and Dalal 2005)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fpcore.evaluation.clarity import cielab

SEVEN = 25.0**7


def ciede2000(image: Tensor, reference: Tensor) -> float:
    """Mean colour difference ΔE₀₀ of two pictures (3, H, W) in [0, 1], sRGB: 1 is just noticeable."""
    return float(colour_difference(cielab(image), cielab(reference)).mean())


def colour_difference(first: Tensor, second: Tensor) -> Tensor:
    """ΔE₀₀ of CIELAB colours (3, ...), as published, with unit weights."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    mean_chroma = (torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2
    g = 0.5 * (1 - (mean_chroma**7 / (mean_chroma**7 + SEVEN)).sqrt())
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = (torch.atan2(b, a) % (2 * math.pi) for a, b in ((a1, b1), (a2, b2)))
    grey = c1 * c2 == 0
    turn = h2 - h1
    turn = torch.where(turn > math.pi, turn - 2 * math.pi, torch.where(turn < -math.pi, turn + 2 * math.pi, turn))
    turn = torch.where(grey, 0.0, turn)
    light, chroma, hue = l2 - l1, c2 - c1, 2 * (c1 * c2).sqrt() * torch.sin(turn / 2)
    mean_light, mean_c = (l1 + l2) / 2, (c1 + c2) / 2
    total = h1 + h2
    far = (h1 - h2).abs() > math.pi
    mean_h = torch.where(far, torch.where(total < 2 * math.pi, total + 2 * math.pi, total - 2 * math.pi), total) / 2
    mean_h = torch.where(grey, total, mean_h)
    t = (
        1
        - 0.17 * torch.cos(mean_h - math.pi / 6)
        + 0.24 * torch.cos(2 * mean_h)
        + 0.32 * torch.cos(3 * mean_h + math.pi / 30)
        - 0.20 * torch.cos(4 * mean_h - math.radians(63))
    )
    s_l = 1 + 0.015 * (mean_light - 50) ** 2 / (20 + (mean_light - 50) ** 2).sqrt()
    s_c, s_h = 1 + 0.045 * mean_c, 1 + 0.015 * mean_c * t
    bend = math.radians(30) * torch.exp(-(((torch.rad2deg(mean_h) - 275) / 25) ** 2))
    rotation = -torch.sin(2 * bend) * 2 * (mean_c**7 / (mean_c**7 + SEVEN)).sqrt()
    parts = light / s_l, chroma / s_c, hue / s_h
    squares = parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2 + rotation * parts[1] * parts[2]
    difference: Tensor = squares.clamp_min(0).sqrt()
    return difference
