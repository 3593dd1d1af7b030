"""Is a dehazed picture to be trusted? Judged from the input and the result at model size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fpcore.evaluation.metrics import clipped_share, colourfulness, contrast, dark_channel_density, structure_distance

COLLAPSED_ABOVE = 0.35
"""Structure distance to the input over which a result shows something else than the photograph."""
CLIPPED_ABOVE = 0.10
"""Share of newly clipped pixels that a full-strength edit may cost."""
DARKEST_HAZY = (0.13, 0.15)
"""Darkest value between which the edit fades in from nothing to full strength: a veil leaves nothing darker than itself, and
hardly a clear photograph has nothing nearly black in it. 6 of 145 clear ones reach .13 (``benchmarks.haze_amount``)."""
DARKEST_DOUBTFUL = (0.05, 0.07)
"""Darkest value between which an edit within ``DOUBTFUL_PSNR`` fades in: 7 of 435 hazy renderings stay below, 125
of the 145 clear photographs."""
DOUBTFUL_PSNR = 31.0
"""PSNR (dB) that an edited photograph keeps to itself as long as it may be clear as well as hazy. A clear one is to come back
at 30 dB at least, and its own pixels may lose a little more than the picture of the model's size does."""
SEEN_HAZY = (0.25, 0.35)
"""Amount of haze seen by the model between which the edit fades in whatever the darkest value says: a black thing near the
camera speaks for the air before it, not for all of the air. Of the other 139 clear photographs the model sees .25 in one."""


@dataclass(frozen=True)
class Verdict:
    """``name``: improved, unchanged (nothing to gain), weakened or collapsed (published as the photograph was).

    ``strength``: share of the edit to apply. ``measures``: what the judgement rests on.
    """

    name: str
    strength: float
    measures: dict[str, float]


def measure(pixels: Tensor, result: Tensor) -> list[dict[str, float]]:
    """What can be said without truth of each of M pairs of input and result (M, 3, H, W) in [0, 1]."""
    columns = {
        "structure_distance": structure_distance(result, pixels),
        "structure_distance_half": structure_distance(torch.lerp(pixels, result, 0.5), pixels),
        "dark_channel_before": dark_channel_density(pixels, 3),
        "dark_channel_after": dark_channel_density(result, 3),
        "clipped_before": clipped_share(pixels),
        "clipped_after": clipped_share(result),
        "contrast_before": contrast(pixels),
        "contrast_after": contrast(result),
        "colourfulness_before": colourfulness(pixels),
        "colourfulness_after": colourfulness(result),
    }
    return [{name: float(values[i]) for name, values in columns.items()} for i in range(len(pixels))]


def evidence_of_haze(seen: Tensor, darkest: Tensor) -> Tensor:
    """How sure it is that there is haze, (M,) in [0, 1]: as sure as the surer of two witnesses.

    ``seen`` (M,): amount of haze that the model sees, NaN if it was not asked (then the answer is 1). ``darkest`` (M,):
    ``fpcore.dehazing.haze_density.darkest_value``.
    """

    sure = torch.maximum(_between(seen.cpu(), *SEEN_HAZY), _between(darkest.cpu(), *DARKEST_HAZY))
    return torch.where(seen.cpu().isnan(), 1.0, sure)


def strength_in_doubt(pixels: Tensor, result: Tensor, darkest: Tensor) -> Tensor:
    """Share of the edit ``pixels`` → ``result`` (M, 3, H, W) that even a photograph that may be clear can take, (M,) in [0, 1]."""
    change = (result - pixels).square().mean((1, 2, 3)).sqrt().cpu()
    within = (10 ** (-DOUBTFUL_PSNR / 20) / change.clamp_min(1e-6)).clamp_max(1)
    return within * _between(darkest.cpu(), *DARKEST_DOUBTFUL)


def _between(value: Tensor, low: float, high: float) -> Tensor:
    return ((value - low) / (high - low)).clamp(0, 1)


def judge(pixels: Tensor, result: Tensor, seen: Tensor, darkest: Tensor | None = None) -> list[Verdict]:
    """A verdict for each of M pairs (M, 3, H, W) in [0, 1]; ``seen`` (M,): amount of haze, NaN if the model was not asked.

    ``darkest`` (M,): of the photographs at full resolution (``fpcore.dehazing.haze_density.darkest_value``); None = of ``pixels``.
    A photograph without evidence of haze is left as it is, one that may be clear is edited little. A result that collapsed
    is tried again at half strength, one that clips too much is weakened, one that gains nothing is not applied.
    """
    darkest = pixels.amin((1, 2, 3)) if darkest is None else darkest
    result = result.clamp(0, 1)
    strength = torch.maximum(evidence_of_haze(seen, darkest), strength_in_doubt(pixels, result, darkest))
    measured = measure(pixels, result)
    return [
        _judge_one({"haze_seen": a, "darkest": d, **measures}, s)
        for a, d, s, measures in zip(seen.tolist(), darkest.tolist(), strength.tolist(), measured, strict=True)
    ]


def _judge_one(m: dict[str, float], strength: float) -> Verdict:
    if strength == 0 or m["dark_channel_after"] >= m["dark_channel_before"]:
        return Verdict("unchanged", 0.0, m)
    if m["structure_distance"] > COLLAPSED_ABOVE:
        half = m["structure_distance_half"] <= COLLAPSED_ABOVE
        return Verdict("weakened" if half else "collapsed", 0.5 * strength if half else 0.0, m)
    if m["clipped_after"] - m["clipped_before"] > CLIPPED_ABOVE:
        return Verdict("weakened", 0.5 * strength, m)
    return Verdict("improved", strength, m)
