"""O-BELM (Wang et al., NeurIPS 2024) and BDIA (Zhang et al., ECCV 2024): two-step samplers whose inverse is algebra.

In x = z/a and σ̃ = s/a the sampler's equation is dx/dσ̃ = ε. With ``h = σ̃_i − σ̃_{i-1}`` and ``h₊ = σ̃_{i+1} − σ̃_i``,
asking

    x_{i-1} = A x_{i+1} + B x_i + C ε(x_i, i)

to be right for x = 1 and σ̃ gives B = 1 − A and C = −(h + A h₊). O-BELM takes A = h²/h₊², which is right for σ̃² too:
second order. BDIA averages the DDIM step down with the one up from the same x_i, A = γ a_{i+1}/a_{i-1}, here γ = 1. The
same equation solved for x_{i+1} is its inverse, with the same single evaluation at x_i.

The price: the second root of x_{i-1} = A x_{i+1} + B x_i is −A. Sampling damps it where steps grow with the noise
(A < 1); inversion multiplies it by 1/A each step, in all by (h_N/h_1)². So the pair comes back exactly, but its latent
may be far from the noise that plain sampling would take there. Double precision is wise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import torch
from torch import Tensor

from fpcore.inversion.criteria import Status
from fpcore.inversion.invert import Predict
from fpcore.inversion.schedule import Schedule


@dataclass(frozen=True)
class ExactLatents:
    """``last`` z_N and ``before`` z_{N-1}, each (M, C, h, w): a two-step sampler's state is a pair."""

    last: Tensor
    before: Tensor


TwoStepRule = Literal["o-belm", "bdia"]
TWO_STEP_RULES: tuple[TwoStepRule, ...] = ("o-belm", "bdia")
NOISE_RMS = (0.5, 2.0)
"""The size of a latent that can pass for the noise a model was trained with; plain inversion leaves .9 to 1.1."""


def noise_status(size: float) -> Status:
    """What to call an exact inversion whose latent has that RMS: completed, or no noise to sample or edit from."""
    if not isfinite(size):
        return Status.NONFINITE
    return Status.COMPLETED if NOISE_RMS[0] <= size <= NOISE_RMS[1] else Status.NOT_NOISE


@torch.no_grad()
def invert_exactly(
    predict: Predict, schedule: Schedule, z0: Tensor, *, batch_size: int = 8, rule: TwoStepRule = "o-belm"
) -> ExactLatents:
    """z_0 (M, C, h, w) → (z_N, z_{N-1}): one plain DDIM step, then the two-step equation; N evaluations an image.

    ``sample_exactly`` undoes it to rounding error if ``predict`` answers equal rows equally. Computed in z0's dtype.
    Raises ValueError for a schedule of rectified flow or of fewer than two steps.
    """
    levels = _Levels.of(schedule, rule)
    done = [_invert(predict, levels, z0[rows], rows) for rows in _chunks(z0, batch_size)]
    return ExactLatents(torch.cat([x for _, x in done]), torch.cat([x for x, _ in done]))


@torch.no_grad()
def sample_exactly(
    predict: Predict,
    schedule: Schedule,
    last: Tensor,
    before: Tensor | None = None,
    *,
    batch_size: int = 8,
    rule: TwoStepRule = "o-belm",
) -> Tensor:
    """z_N and z_{N-1} → z_0, each (M, C, h, w): N − 1 evaluations an image.

    Without ``before``, from plain noise, a DDIM step makes it. Raises ValueError as ``invert_exactly``.
    """
    levels = _Levels.of(schedule, rule)
    each = []
    for rows in _chunks(last, batch_size):
        x = last[rows] / levels.signal[-1]
        if before is None:
            after = x - levels.gap(len(levels)) * levels.noise_of(predict, x, len(levels), rows)
        else:
            after = before[rows] / levels.signal[-2]
        each.append(_sample(predict, levels, x, after, rows))
    return torch.cat(each) if each else last.clone()


def _invert(predict: Predict, levels: _Levels, z0: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """z_{N-1} and z_N of a chunk."""
    # The first step has no two neighbours yet: DDIM's, with ε at the old latent and the new timestep
    first = levels.direction(predict, z0, 1, rows)
    before = z0 / levels.signal[0]
    x = before + levels.gap(1) * first
    for i in range(1, len(levels)):
        a, b, c = levels.coefficients(i)
        before, x = x, (before - b * x - c * levels.noise_of(predict, x, i, rows)) / a
    return before * levels.signal[-2], x * levels.signal[-1]


def _sample(predict: Predict, levels: _Levels, x: Tensor, after: Tensor, rows: Tensor) -> Tensor:
    """z_0 of a chunk from x_N and x_{N-1}."""
    for i in reversed(range(1, len(levels))):
        a, b, c = levels.coefficients(i)
        x, after = after, a * x + b * after + c * levels.noise_of(predict, after, i, rows)
    return after * levels.signal[0]


@dataclass(frozen=True)
class _Levels:
    """Level 0 is clean, level i (of N) is where the schedule's i-th real step leads to."""

    schedule: Schedule
    signal: list[float]
    sigma: list[float]
    rule: TwoStepRule

    def __len__(self) -> int:
        return len(self.sigma) - 1

    @classmethod
    def of(cls, schedule: Schedule, rule: TwoStepRule) -> _Levels:
        if schedule.prediction_type == "flow":
            raise ValueError("the exact sampler needs a schedule of ε-, v- or x0-prediction, not rectified flow")
        if len(schedule.real) < 2:
            raise ValueError("the exact sampler looks two steps back: use num_inference_steps of at least 2")
        walked = schedule.take(schedule.real)
        signal = torch.cat([walked.signal_prev[:1], walked.signal])
        noise = torch.cat([walked.noise_prev[:1], walked.noise])
        return cls(walked, signal.tolist(), (noise / signal).tolist(), rule)

    def gap(self, i: int) -> float:
        """h_i = σ̃_i − σ̃_{i-1}."""
        return self.sigma[i] - self.sigma[i - 1]

    def coefficients(self, i: int) -> tuple[float, float, float]:
        """A, B and C at level i."""
        h, after = self.gap(i), self.gap(i + 1)
        a = (h / after) ** 2 if self.rule == "o-belm" else self.signal[i + 1] / self.signal[i - 1]
        return a, 1 - a, -(h + a * after)

    def noise_of(self, predict: Predict, x: Tensor, i: int, rows: Tensor) -> Tensor:
        """ε(x_i, i)."""
        return self.direction(predict, x * self.signal[i], i, rows)

    def direction(self, predict: Predict, z: Tensor, i: int, rows: Tensor) -> Tensor:
        """ε at the state z, as if it stood at level i."""
        step = torch.full((len(z),), i - 1)
        output = predict(z, self.schedule.timesteps[step].to(z.device), rows)
        return self.schedule.direction(output.to(z.dtype), z, step)


def _chunks(z: Tensor, size: int) -> Iterator[Tensor]:
    """Row indices, at most ``size`` at a time."""
    for start in range(0, len(z), max(1, size)):
        yield torch.arange(start, min(start + max(1, size), len(z)), device=z.device)
