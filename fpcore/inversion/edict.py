"""EDICT (Wallace et al., CVPR 2023): two coupled states, each stepped with the other's ε, inverted by algebra.

With a DDIM step z_{t-1} = a z_t + b ε, a = 1/φ, b = −ψ/φ, and mixing p, from t to t − 1:

    x' = a x + b ε(y, t),   y' = a y + b ε(x', t),   x ← p x' + (1 − p) y',   y ← p y' + (1 − p) x,

and every other step with the roles exchanged. Two evaluations a step. Double precision is wise: undoing the mixing
divides by p twice a step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fpcore.inversion.belm import ExactLatents
from fpcore.inversion.invert import Predict
from fpcore.inversion.schedule import Schedule

MIXING = 0.93
"""p of the paper."""


@torch.no_grad()
def invert_coupled(
    predict: Predict, schedule: Schedule, z0: Tensor, *, batch_size: int = 8, mixing: float = MIXING
) -> ExactLatents:
    """z_0 (M, C, h, w), taken for both states → the pair at z_N, as ``last`` and ``before``; 2 N evaluations an image.

    ``sample_coupled`` undoes it to rounding error. Computed in z0's dtype.
    """
    done = [_walk(predict, schedule, (z0[rows], z0[rows]), rows, mixing, up=True) for rows in _chunks(z0, batch_size)]
    return ExactLatents(torch.cat([x for x, _ in done]), torch.cat([y for _, y in done]))


@torch.no_grad()
def sample_coupled(
    predict: Predict, schedule: Schedule, last: Tensor, before: Tensor, *, batch_size: int = 8, mixing: float = MIXING
) -> Tensor:
    """The pair at z_N, each (M, C, h, w) → z_0, its first state."""
    done = [
        _walk(predict, schedule, (last[rows], before[rows]), rows, mixing, up=False)[0]
        for rows in _chunks(last, batch_size)
    ]
    return torch.cat(done) if done else last.clone()


def _walk(
    predict: Predict, schedule: Schedule, pair: tuple[Tensor, Tensor], rows: Tensor, p: float, *, up: bool
) -> tuple[Tensor, Tensor]:
    steps = schedule.real.tolist()
    x, y = pair
    for i in steps if up else reversed(steps):
        if i % 2:
            x, y = y, x
        x, y = (_up if up else _down)(predict, schedule, i, x, y, rows, p)
        if i % 2:
            x, y = y, x
    return x, y


def _down(
    predict: Predict, schedule: Schedule, i: int, x: Tensor, y: Tensor, rows: Tensor, p: float
) -> tuple[Tensor, Tensor]:
    """From t to t − 1."""
    phi, psi = float(schedule.phi[i]), float(schedule.psi[i])
    x = (x - psi * _direction(predict, schedule, i, y, rows)) / phi
    y = (y - psi * _direction(predict, schedule, i, x, rows)) / phi
    x = p * x + (1 - p) * y
    return x, p * y + (1 - p) * x


def _up(
    predict: Predict, schedule: Schedule, i: int, x: Tensor, y: Tensor, rows: Tensor, p: float
) -> tuple[Tensor, Tensor]:
    """From t − 1 to t: the lines of ``_down`` from the last to the first, each solved for what it changed."""
    phi, psi = float(schedule.phi[i]), float(schedule.psi[i])
    y = (y - (1 - p) * x) / p
    x = (x - (1 - p) * y) / p
    y = phi * y + psi * _direction(predict, schedule, i, x, rows)
    x = phi * x + psi * _direction(predict, schedule, i, y, rows)
    return x, y


def _direction(predict: Predict, schedule: Schedule, i: int, z: Tensor, rows: Tensor) -> Tensor:
    step = torch.full((len(z),), i)
    output = predict(z, schedule.timesteps[step].to(z.device), rows)
    return schedule.direction(output.to(z.dtype), z, step)


def _chunks(z: Tensor, size: int) -> list[Tensor]:
    return list(torch.arange(len(z), device=z.device).split(max(1, size)))
