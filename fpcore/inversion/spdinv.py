"""SPDInv (Li et al., ECCV 2024): each step's fixed point by gradient descent through the network instead of iteration.

From z = f(z_{t-1}), AdamW at 1e-3 on MSE(z, f(z)), at most 25 updates, stopped after the update whose loss was below
5e-6: the released configuration. Left out: its interpolation of the source prompt with the null text (0 there too).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fpcore.inversion.criteria import Status
from fpcore.inversion.records import Recorder
from fpcore.inversion.result import Inversion, Predict
from fpcore.inversion.schedule import Schedule

UPDATES = 25
LEARNING_RATE = 1e-3
THRESHOLD = 5e-6
"""Of the mean squared error: RMS 2.2e-3."""


def invert_spd(
    predict: Predict, schedule: Schedule, z0: Tensor, *, batch_size: int = 8, keep_trajectory: bool = False
) -> Inversion:
    """Invert M images (M, C, h, w) in z0's dtype; ``nfe`` counts forward evaluations, each update also has a backward one.

    A row stops by itself; its neighbours never reach it. The network's parameters take no gradients.
    """
    recorder, nfe = Recorder(), torch.zeros(len(z0), dtype=torch.long)
    trajectory = z0[:, None].repeat(1, len(schedule) + 1, *[1] * (z0.ndim - 1)) if keep_trajectory else None
    latents, worst = z0.clone(), torch.full((len(z0),), int(Status.CONVERGED))
    for rows in torch.arange(len(z0), device=z0.device).split(max(1, batch_size)):
        z, at = z0[rows], rows.cpu()
        for i in schedule.real.tolist():
            z, spent, loss = _solve(predict, schedule, i, z, rows, recorder)
            nfe[at] += spent
            if trajectory is not None:
                trajectory[rows, i + 1 :] = z[:, None]
            codes = torch.where(loss < THRESHOLD, int(Status.CONVERGED), int(Status.MAX_ITERATIONS))
            worst[at] = torch.maximum(worst[at], torch.where(loss.isfinite(), codes, int(Status.NONFINITE)))
        latents[rows] = z
    status = [Status(int(code)) for code in worst]
    return Inversion(latents, status, nfe.tolist(), recorder.finish(), [float("nan")] * len(z0), trajectory)


def _solve(
    predict: Predict, schedule: Schedule, i: int, base: Tensor, rows: Tensor, recorder: Recorder
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of a batch: z_t (B, …), evaluations spent (B,), last loss (B,); the latter two in main memory."""

    def f(z: Tensor, chosen: Tensor) -> Tensor:
        step = torch.full((len(z),), i)
        output = predict(z, schedule.timesteps[step].to(z.device), rows[chosen])
        d = schedule.direction(output.to(z.dtype), z, step.to(z.device))
        return float(schedule.phi[i]) * base[chosen] + float(schedule.psi[i]) * d

    everyone = torch.arange(len(base), device=base.device)
    with torch.no_grad():
        start = f(base, everyone)
    # a leaf an image: AdamW leaves alone those without a gradient, so that an image that has stopped rests
    each = [z.clone().requires_grad_() for z in start.split(1)]
    optimiser = torch.optim.AdamW(each, lr=LEARNING_RATE)
    spent, last = torch.ones(len(base), dtype=torch.long), torch.full((len(base),), torch.inf)
    running = list(range(len(base)))
    for update in range(1, UPDATES + 1):
        optimiser.zero_grad()
        with torch.enable_grad():
            z = torch.cat([each[k] for k in running])
            loss = (z - f(z, everyone[running])).square().flatten(1).mean(1)
            gradients = torch.autograd.grad(loss.sum(), [each[k] for k in running])
        for k, gradient in zip(running, gradients, strict=True):
            each[k].grad = gradient
        optimiser.step()
        spent[running] += 1
        last[running] = loss.detach().cpu().to(last.dtype)
        _record(recorder, rows[running].cpu().numpy(), i, update, last[running])
        running = [k for k in running if bool(last[k].isfinite()) and float(last[k]) >= THRESHOLD]
        if not running:
            break
    return torch.cat([z.detach() for z in each]), spent, last


def _record(recorder: Recorder, images: NDArray[np.int64], step: int, update: int, loss: Tensor) -> None:
    """One row of the records for each image still running; what is not measured is NaN."""
    unknown = np.full(len(images), np.nan)
    met = loss.numpy() < THRESHOLD
    at_end = Status.MAX_ITERATIONS if update == UPDATES else Status.RUNNING
    codes = np.where(met, int(Status.CONVERGED), int(at_end))
    columns = (images, np.full(len(images), step), np.full(len(images), update), codes)
    recorder.add(*columns, loss.sqrt().numpy(), unknown, unknown, unknown)
