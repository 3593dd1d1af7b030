"""Samplers of rectified flow that walk both ways: RF-Inversion, RF-Solver, FireFlow. No fixed point is solved.

The flow is dz/dσ = v(z, σ) from the picture at σ = 0 to noise at σ = 1. A step leads from σ to σ + h, h > 0 inverts and
h < 0 samples:

    rf-solver     Wang et al. 2024: z + h v + ½ h² v', v' = (v(z + ½ h v, σ + ½ h) − v)/(½ h). Two evaluations.
    fireflow      Deng et al. 2024: z + h v_mid, v_mid = v(z + ½ h v̂, σ + ½ h), v̂ the step before's v_mid. One.
    rf-inversion  Rout et al. 2024: Euler on v steered towards typical noise n on the way up,
                  v + γ ((n − z)/(1 − σ) − v), and towards the picture on the way down, v + η ((z − z_0)/σ − v).

None is an exact inverse of itself; the error is of second order, and RF-Inversion's way down is held by z_0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from fpcore.inversion.invert import Predict
from fpcore.inversion.schedule import Schedule

FlowSampler = Literal["rf-inversion", "rf-solver", "fireflow"]
FLOW_SAMPLERS: tuple[FlowSampler, ...] = get_args(FlowSampler)
Velocity = Callable[[Tensor, float], Tensor]
"""(z (B, C, h, w), σ) → v of its shape."""


@dataclass(frozen=True)
class Controllers:
    """RF-Inversion's strengths, as released: γ = .5 up; η = .9 down, on the first ``until`` of the sampling steps."""

    gamma: float = 0.5
    eta: float = 0.9
    until: float = 0.25


@torch.no_grad()
def invert_flow(
    name: FlowSampler,
    predict: Predict,
    schedule: Schedule,
    z0: Tensor,
    *,
    batch_size: int = 8,
    seeds: list[int] | None = None,
    controllers: Controllers = Controllers(),
) -> Tensor:
    """z_0 (M, C, h, w) → z_T. ``seeds``: of the noise that RF-Inversion is steered to, one an image.

    Raises ValueError for a schedule that is no rectified flow.
    """
    _require_flow(schedule)
    seeds = list(range(len(z0))) if seeds is None else seeds
    noise = [torch.randn(z0.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    towards = torch.stack(noise).to(z0) if noise else z0
    parts = [
        _walk(name, predict, schedule, z0[rows], rows, towards[rows], controllers, up=True)
        for rows in torch.arange(len(z0), device=z0.device).split(max(1, batch_size))
    ]
    return torch.cat(parts) if parts else z0.clone()


@torch.no_grad()
def sample_flow(
    name: FlowSampler,
    predict: Predict,
    schedule: Schedule,
    latents: Tensor,
    z0: Tensor,
    *,
    batch_size: int = 8,
    controllers: Controllers = Controllers(),
) -> Tensor:
    """z_T (M, C, h, w) → z_0. ``z0``: the inverted picture, which RF-Inversion is steered to; the others ignore it."""
    _require_flow(schedule)
    parts = [
        _walk(name, predict, schedule, latents[rows], rows, z0[rows], controllers, up=False)
        for rows in torch.arange(len(latents), device=latents.device).split(max(1, batch_size))
    ]
    return torch.cat(parts) if parts else latents.clone()


def flow_evaluations(name: FlowSampler, steps: int) -> int:
    """Network rows of one way of one image."""
    return {"rf-inversion": steps, "rf-solver": 2 * steps, "fireflow": steps + 1}[name]


def _require_flow(schedule: Schedule) -> None:
    if schedule.prediction_type != "flow":
        raise ValueError(f"{', '.join(FLOW_SAMPLERS)} are samplers of rectified flow (SD 3, FLUX); this model is none")


def _walk(
    name: FlowSampler, predict: Predict, schedule: Schedule, z: Tensor, rows: Tensor, towards: Tensor, c: Controllers,
    *, up: bool,
) -> Tensor:  # fmt: skip
    """All steps of a batch, in one direction."""
    scale = float(schedule.timesteps[-1]) / float(schedule.noise[-1])  # timesteps are proportional to σ

    def velocity(z: Tensor, sigma: float) -> Tensor:
        t = torch.full((len(z),), scale * sigma, dtype=torch.float32, device=z.device)
        return predict(z, t, rows).to(z.dtype)

    steps = list(zip(schedule.noise_prev.tolist(), schedule.noise.tolist(), strict=True))
    if not up:
        steps = [(b, a) for a, b in reversed(steps)]
    middle: Tensor | None = None
    for i, (sigma, reached) in enumerate(steps):
        h = reached - sigma
        if name == "rf-inversion":
            strength = c.gamma if up else (c.eta if i < round(c.until * len(steps)) else 0.0)
            z = z + h * _steered(velocity(z, sigma), z, sigma, towards, strength, up=up)
        else:
            first = velocity(z, sigma) if middle is None or name == "rf-solver" else middle
            middle = velocity(z + h / 2 * first, sigma + h / 2)
            # RF-Solver's z + h v + ½ h² (v_mid − v)/(½ h) is the same
            z = z + h * middle
    return z


def _steered(v: Tensor, z: Tensor, sigma: float, towards: Tensor, strength: float, *, up: bool) -> Tensor:
    """v pulled to the straight line to ``towards``: noise on the way up, the picture on the way down."""
    if strength == 0:
        return v
    straight = (towards - z) / (1 - sigma) if up else (z - towards) / sigma
    return v + strength * (straight - v)
