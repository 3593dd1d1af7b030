"""Deterministic sampling: the inversion's steps walked backwards, explicitly, or to states that a projection allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fpcore.inversion.invert import Cancelled, Inversion, Predict, invert
from fpcore.inversion.methods import Method
from fpcore.inversion.schedule import Schedule

Project = Callable[[Tensor, Tensor], Tensor]
"""(estimate of x0 (R, C, h, w), image index (R,)) → the estimate that agrees with what is known of those images."""


@torch.no_grad()
def sample(
    predict: Predict,
    schedule: Schedule,
    latents: Tensor,
    *,
    batch_size: int = 8,
    on_images_done: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:
    """z_{t-1} = (z_t − ψ_t d(z_t, t)) / φ_t from z_T (M, C, h, w) to z_0, one evaluation a row and step.

    The batches are of nearly equal size, so that none is mostly empty. Raises ``Cancelled`` between evaluations if
    ``should_stop`` says so.
    """
    result, there = latents.clone(), schedule.to(latents.device, latents.dtype)
    walked = schedule.real.tolist()[::-1]
    phi, psi = schedule.phi.tolist(), schedule.psi.tolist()
    everyone = torch.arange(len(latents), device=latents.device)
    for rows in everyone.tensor_split(-(-len(latents) // max(1, batch_size))):
        z = latents[rows]
        for i in walked:
            if should_stop is not None and should_stop():
                raise Cancelled("stopped between two evaluations")
            output = predict(z, there.timesteps[i].expand(len(z)), rows)
            d = there.direction(output.to(z.dtype), z, torch.full_like(rows, i))
            z = (z - psi[i] * d) / phi[i]
        result[rows] = z
        if on_images_done is not None:
            on_images_done(int(rows[-1]) + 1)
    return result


@dataclass(frozen=True)
class Descent(Schedule):
    """The levels of a schedule walked down, each step solved for the state it leads to.

    In x = z/a the step from level σ̃ to σ̃' is implicit Euler, x' = (1 − r) x + r x0(x', σ̃') with r = 1 − σ̃'/σ̃, or

        f(z') = φ z + ψ x0(z', t'),        φ = s'/s,   ψ = a' (1 − σ̃'/σ̃).

    Here ``direction`` is the estimate x0 itself. An ideal denoiser's ∂x0/∂x is Cov(x0|z)/σ̃², which for a Gaussian is
    below 1: f contracts by r, and no slower where x0 is then projected.
    """

    @classmethod
    def of(cls, schedule: Schedule) -> Descent:
        """From the last level of ``schedule`` to its first. Raises ValueError for flow, which has no such levels."""
        if schedule.prediction_type == "flow":
            raise ValueError("consistent sampling needs a DDIM schedule, not rectified flow")
        a, s = schedule.signal.flip(0), schedule.noise.flip(0)
        times, kind = schedule.timesteps.flip(0), schedule.prediction_type
        return cls(times[1:], a[:-1], s[:-1], a[1:], s[1:], kind)

    @cached_property
    def phi(self) -> Tensor:
        """φ (N,)."""
        return self.noise / self.noise_prev

    @cached_property
    def psi(self) -> Tensor:
        """ψ (N,)."""
        return self.signal * self.rate

    @cached_property
    def rate(self) -> Tensor:
        """r (N,)."""
        return 1 - (self.noise / self.signal) / (self.noise_prev / self.signal_prev)

    def direction(self, output: Tensor, z: Tensor, step: Tensor) -> Tensor:
        """The engine is given estimates of x0."""
        del z, step
        return output


@torch.no_grad()
def sample_consistently(
    predict: Predict,
    schedule: Schedule,
    latents: Tensor,
    method: Method,
    project: Project,
    *,
    batch_size: int = 8,
    seeds: list[int] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Inversion:
    """Regenerate from z_T (M, C, h, w) so that every step's estimate of x0 is one that ``project`` leaves alone.

    Each state is the fixed point of "project after denoise", z' = φ z + ψ project(x0(z', t')), found by the engine that
    inverts, under the same ``method``, and recorded alike; see ``Descent``. The last step is to the estimate itself.
    ``latents`` of what comes back are that estimate. Raises ValueError for flow, and for a method that asks the network
    about the level a step leaves, where the state it leads to is not judged.
    """
    if method.asks == "left":
        raise ValueError(f"{method.name} looks for no state of the level a step leads to: choose another method")

    def estimate(z: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        at = (listed[None] == t[:, None]).int().argmax(1)
        d = there.direction(predict(z, t, rows).to(z.dtype), z, at)
        return project(there.denoised(d, z, at), rows)

    there = schedule.to(latents.device, latents.dtype)
    listed, everyone = there.timesteps, torch.arange(len(latents), device=latents.device)
    walk = invert(
        estimate, Descent.of(schedule), latents, method, batch_size=batch_size, seeds=seeds, should_stop=should_stop
    )
    result = walk.latents.clone()
    for rows in everyone.split(max(1, batch_size)):
        if should_stop is not None and should_stop():
            raise Cancelled("stopped between two evaluations")
        result[rows] = estimate(result[rows], listed[:1].expand(len(rows)), rows)
    return replace(walk, latents=result, nfe=[n + 1 for n in walk.nfe])
