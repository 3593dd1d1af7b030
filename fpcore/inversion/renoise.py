"""ReNoise (Garibi et al., ECCV 2024) with the regularisation of ε of its released configuration.

Before a prediction ε̂ is used it is made more like noise, four rounds of gradient descent on ε̂ alone:

    one step of .065 on the divergence between its 4 × 4 × 4 patches, as Gaussians, and those of a reference ε,
    five of 20/5 on its squared auto-correlation at random shifts, over a pyramid of halves,

the reference being ε(a_t z_0 + s_t n, t) of the picture itself under one n ~ N(0, I). The predictions from the first
averaged one on are regularised, and the average again; what is averaged are the raw ones. (The divergence's first
gradient is clipped at ±100. Both losses are pix2pix-zero's; Parmar et al. 2023.) No randomness is shared between images,
and a step whose plan never reaches its range is spared the reference, which nothing would ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.inversion.criteria import Status, rms
from fpcore.inversion.records import Recorder
from fpcore.inversion.result import Predict
from fpcore.inversion.schedule import Schedule
from fpcore.inversion.solvers import Averaging
from fpcore.inversion.stepwise import Solve, record

ROUNDS, ROLLS = 4, 5
DIVERGENCE_RATE, CORRELATION_RATE = 0.065, 20.0
CLIP = 100.0
PATCH = 4
SMALLEST = 8
"""The pyramid of the auto-correlation ends at this height."""


def renoise_steps(
    predict: Predict, schedule: Schedule, z0: Tensor, averaging: Averaging, seeds: list[int] | None = None
) -> Solve:
    """Each step of the inversion of M images (M, C, h, w), for ``walk``. ``seeds``: one an image.

    Raises ValueError for rectified flow, which predicts no ε, and for latents smaller than a patch.
    """
    if schedule.prediction_type == "flow":
        raise ValueError("ReNoise regularises a prediction of noise, flow predicts velocities: choose renoise")
    if min(z0.shape[1:]) < PATCH:
        raise ValueError(f"ReNoise compares patches of 4 × 4 × 4, a latent of {tuple(z0.shape[1:])} has none")
    seeds = list(range(len(z0))) if seeds is None else seeds
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = [torch.randn(z0.shape[1:], generator=each).to(z0.device, z0.dtype) for each in generators]
    return _Renoise(predict, schedule, z0, noise, generators, averaging)


@dataclass(frozen=True)
class _Renoise:
    """One step of a batch; ``noise`` and ``generators``: one an image."""

    predict: Predict
    schedule: Schedule
    z0: Tensor
    noise: list[Tensor]
    generators: list[torch.Generator]
    averaging: Averaging

    def __call__(self, step: int, base: Tensor, rows: Tensor, recorder: Recorder) -> tuple[Tensor, Tensor, Tensor]:
        """See ``stepwise.Solve``."""
        plan = self.averaging.plan(float(self.schedule.timesteps[step]))
        reaches = plan.renoise >= plan.first
        reference = self._reference(step, rows) if reaches else None
        z, total, images = base, torch.zeros_like(base), rows.cpu().numpy()
        for k in range(plan.renoise + 1):
            noise = self._noise(step, z, rows)
            total += noise if plan.first <= k < plan.end else 0
            if reference is not None and k >= plan.first:
                noise = self._regularised(noise, reference, rows)
            f = self._to_end(step, base, noise)
            status = Status.COMPLETED if k == plan.renoise else Status.RUNNING
            record(recorder, images, step, k + 1, np.full(len(images), int(status)), rms(f - z))
            z = f
        if reference is not None:
            averaged = min(plan.end, plan.renoise + 1) - plan.first
            z = self._to_end(step, base, self._regularised(total / averaged, reference, rows))
        spent = plan.renoise + 1 + int(reaches)
        return z, torch.full((len(z),), spent), torch.full((len(z),), int(Status.COMPLETED))

    def _noise(self, step: int, z: Tensor, rows: Tensor) -> Tensor:
        """ε̂ (B, C, h, w) at the step's timestep."""
        at = torch.full((len(z),), step)
        output = self.predict(z, self.schedule.timesteps[at].to(z.device), rows)
        return self.schedule.direction(output.to(z.dtype), z, at.to(z.device))

    def _reference(self, step: int, rows: Tensor) -> Tensor:
        noise = torch.stack([self.noise[i] for i in rows.tolist()])
        noisy = float(self.schedule.signal[step]) * self.z0[rows] + float(self.schedule.noise[step]) * noise
        return self._noise(step, noisy, rows)

    def _regularised(self, noise: Tensor, reference: Tensor, rows: Tensor) -> Tensor:
        each = zip(noise, reference, rows.tolist(), strict=True)
        return torch.stack([regularised(one, other, self.generators[i]) for one, other, i in each])

    def _to_end(self, step: int, base: Tensor, noise: Tensor) -> Tensor:
        return float(self.schedule.phi[step]) * base + float(self.schedule.psi[step]) * noise


def regularised(noise: Tensor, reference: Tensor, generator: torch.Generator) -> Tensor:
    """``noise`` (C, h, w) moved towards what ``reference`` (C, h, w) looks like, see the module."""
    for _ in range(ROUNDS):
        towards = _gradient(partial(_divergence, _moments(reference)), noise)
        noise = noise - DIVERGENCE_RATE * towards.clamp(-CLIP, CLIP)
        for _ in range(ROLLS):
            shifted = partial(_correlation, generator=generator)
            noise = noise - CORRELATION_RATE / ROLLS * _gradient(shifted, noise)
    return noise


def _gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = at.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(loss(leaf), [leaf])
    return found


def _moments(noise: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of each 4 × 4 × 4 patch: (P, 4) each. What fills no patch is left out."""
    patches = noise.unfold(0, PATCH, PATCH).unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH)
    flat = patches.reshape(-1, PATCH, PATCH * PATCH)
    return flat.mean(-1), flat.var(-1)


def _divergence(reference: tuple[Tensor, Tensor], noise: Tensor) -> Tensor:
    """Σ |log(v₁/v₀) + (v₀ + (μ₀ − μ₁)²)/v₁ − 1| over patches and channels, 0 ``noise``, 1 ``reference``."""
    (mean, variance), (wanted, spread) = _moments(noise), reference
    tiny = 1e-6
    ratio = torch.log((spread + tiny) / (variance + tiny))
    return (ratio + (variance + (mean - wanted) ** 2) / (spread + tiny) - 1).abs().sum()


def _correlation(noise: Tensor, generator: torch.Generator) -> Tensor:
    """Σ (mean of x · x shifted)² over channels, both axes and a pyramid of halves, each at a shift of its own."""
    levels = [noise]
    while levels[-1].shape[1] > SMALLEST:
        levels.append(F.avg_pool2d(levels[-1], 2))
    most = [max(1, level.shape[1] // 2) for level in levels]
    drawn = [[int(torch.randint(0, m, (1,), generator=generator)) for m in most] for _ in noise]
    total = noise.new_zeros(())
    for level, shifts in zip(levels, torch.tensor(drawn, device=noise.device).T, strict=True):
        for axis in (1, 2):
            total = total + (level * _rolled(level, shifts, axis)).mean((1, 2)).square().sum()
    return total


def _rolled(x: Tensor, shifts: Tensor, axis: int) -> Tensor:
    """Each channel of ``x`` (C, h, w) rolled along ``axis`` by its own of the ``shifts`` (C,)."""
    size = x.shape[axis]
    places = (torch.arange(size, device=x.device) - shifts[:, None]) % size
    return x.gather(axis, places.unsqueeze(3 - axis).expand_as(x))
