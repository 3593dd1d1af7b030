"""What is to be done with a photograph, and whether the result is to be trusted; said in words.

``cleared``    there is haze, and it was taken off.
``gently``     there may be haze or none, or a whole edit would cost too much: the photograph was changed a little.
``unchanged``  there is no haze to speak of: the photograph came back as it was, bit for bit.
``collapsed``  the diffusion result shows something else than the photograph, which came back as it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fpcore.dehazing.haze_estimate import HazeEstimate, HazeWeights
from fpcore.evaluation.clarity import FLAT, local_statistics, luma
from fpcore.evaluation.metrics import colourfulness, contrast, dark_channel_density, structure_distance

Name = Literal["cleared", "gently", "unchanged", "collapsed"]
COLLAPSED_ABOVE = 0.35
"""Structure distance to the input over which a result shows something else than the photograph."""
CLIPPED_ABOVE = 0.10
"""Share of pixels with texture that may become wholly black or white by an edit at full strength."""
HAZY: dict[HazeWeights, float] = {"research": 0.225, "free": 0.26}
"""Evidence of haze (``evidence_of_haze``) by a network's answer from which an edit is whole; chosen so that as many clear
photographs are spared by either network (docs/studies/dehazing.md)."""
MAYBE_HAZY = 0.035
"""Evidence of haze below which a photograph comes back as it is."""
LEAST_LIGHT, DARK = 0.62, 0.3
"""A result of a mean luma below ``DARK`` and below this share of the photograph's is what a person calls too dark."""
GENTLE_PSNR = 31.0
"""PSNR (dB) to itself that a photograph keeps as long as it may be clear as well as hazy."""


@dataclass(frozen=True)
class Verdict:
    """``strength``: fraction of the edit to apply, 0 to 1. ``reason``: a sentence. ``measures``: what the judgement rests on.
    ``least_psnr``: what the photograph is to keep to itself (dB), None = the edit is whole (``fpcore.dehazing.gentle``)."""

    name: Name
    strength: float
    reason: str
    measures: dict[str, float]
    least_psnr: float | None = None


DARK_COUNTS, DARK_UP_TO = 0.35, 0.15
"""How much the dark percentile, up to a value, adds to the evidence."""


def evidence_of_haze(e: HazeEstimate) -> float:
    """Mean density over the photograph, in [0, 1), two thirds of it weighted by precision; where nothing is dark, a little more."""
    weight = e.evidence / (e.spread + 0.05).square()
    certain = float((e.density * weight).sum() / weight.sum().clamp_min(1e-6))
    return (2 * certain + e.amount) / 3 + DARK_COUNTS * min(e.dark, DARK_UP_TO)


def judge_estimate(e: HazeEstimate, result: Tensor, hazy: float = HAZY["research"]) -> Verdict:
    """What to do with the restoration ``result`` (3, h, w) in [0, 1] of the picture that ``e`` was estimated on.

    ``hazy``: evidence from which an edit is whole, of the network that made the estimate.
    """
    evidence = evidence_of_haze(e)
    measures = {
        "haze_amount": e.amount,
        "haze_densest": float(torch.quantile(e.density, 0.95)),
        "haze_evidence": evidence,
        "darkest": e.dark,
        **{f"airlight_{name}": float(a) for name, a in zip(("red", "green", "blue"), e.airlight, strict=True)},
        **edit_measures(e.picture[None], result[None])[0],
    }
    said = f"haze over {float((e.density > 0.2).float().mean()):.0%} of it, densest {measures['haze_densest']:.2f}"
    if evidence < MAYBE_HAZY:
        return Verdict("unchanged", 0.0, f"No haze was found: mean density {e.amount:.2f}.", measures)
    if evidence < hazy:
        gently = f"It may be clear or hazy: contrast was brought back, tone hardly changed; {said}."
        return Verdict("gently", 1.0, gently, measures, GENTLE_PSNR)
    strength = bright_enough(e, result)
    clipped = measures["clipped"]
    if clipped > CLIPPED_ABOVE:
        return Verdict(
            "gently", 0.6 * strength, f"Held back: {clipped:.0%} would turn black or white; {said}.", measures
        )
    if strength < 1:
        return Verdict("cleared", strength, f"Held back, lest it turn too dark; {said}.", measures)
    return Verdict("cleared", 1.0, f"Cleared: {said}.", measures)


def bright_enough(e: HazeEstimate, result: Tensor) -> float:
    """The largest strength, up to 1, at which a restoration does not turn too dark (``LEAST_LIGHT``, ``DARK``)."""
    before, after = (float((luma(x) * e.evidence).sum() / e.evidence.sum().clamp_min(1)) for x in (e.picture, result))
    return 1.0 if after >= min(DARK, LEAST_LIGHT * before) else (1 - LEAST_LIGHT) / (1 - after / before)


def edit_measures(pixels: Tensor, result: Tensor) -> list[dict[str, float]]:
    """What can be said without truth of each of M pairs of input and result (M, 3, H, W) in [0, 1]."""
    columns = {
        "structure_distance": structure_distance(result, pixels),
        "dark_channel_before": dark_channel_density(pixels, 3),
        "dark_channel_after": dark_channel_density(result, 3),
        "clipped": torch.stack([newly_clipped(a, b) for a, b in zip(pixels, result, strict=True)]),
        "contrast_before": contrast(pixels),
        "contrast_after": contrast(result),
        "colourfulness_before": colourfulness(pixels),
        "colourfulness_after": colourfulness(result),
    }
    return [{name: float(values[i]) for name, values in columns.items()} for i in range(len(pixels))]


def newly_clipped(source: Tensor, result: Tensor, margin: float = 0.5 / 255) -> Tensor:
    """Share of a picture (3, H, W) that had texture, was not clipped, and is wholly black or white in the result."""
    texture = local_statistics(luma(source))[0] >= FLAT

    def clipped(x: Tensor) -> Tensor:
        return (x <= margin).all(0) | (x >= 1 - margin).all(0)

    return (clipped(result) & ~clipped(source) & texture).double().mean()


def judge_edit(pixels: Tensor, result: Tensor) -> list[Verdict]:
    """A verdict for each of M edits of the paper's methods (M, 3, H, W) in [0, 1], which know no haze density.

    A result that collapsed is tried again at half strength, one that clips too much is weakened, one that leaves as much in
    the dark channel as there was is not applied.
    """
    result = result.clamp(0, 1)
    half = structure_distance(torch.lerp(pixels, result, 0.5), pixels)
    return [_judge_edit(m, float(h)) for m, h in zip(edit_measures(pixels, result), half, strict=True)]


def _judge_edit(m: dict[str, float], distance_at_half: float) -> Verdict:
    if not math.isfinite(m["dark_channel_after"]) or m["dark_channel_after"] >= m["dark_channel_before"]:
        return Verdict("unchanged", 0.0, "The result is no clearer than the photograph.", m)
    if m["structure_distance"] > COLLAPSED_ABOVE:
        if distance_at_half > COLLAPSED_ABOVE:
            return Verdict("collapsed", 0.0, "The result lost the structure of the photograph.", m)
        return Verdict("gently", 0.5, "Held back to half: the whole result lost the structure of the photograph.", m)
    if m["clipped"] > CLIPPED_ABOVE:
        return Verdict("gently", 0.5, f"Held back to half: {m['clipped']:.0%} would turn black or white.", m)
    return Verdict("cleared", 1.0, "The result is clearer, and shows the same.", m)
