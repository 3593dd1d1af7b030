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
from fpcore.inversion.invert import Inversion, Predict
from fpcore.inversion.records import Recorder
from fpcore.inversion.schedule import Schedule, per_row

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
    step = torch.full((len(base),), i)
    t = schedule.timesteps[step].to(base.device)

    def f(z: Tensor) -> Tensor:
        d = schedule.direction(predict(z, t, rows).to(z.dtype), z, step.to(z.device))
        return float(schedule.phi[i]) * base + float(schedule.psi[i]) * d

    with torch.no_grad():
        z = f(base)
    z.requires_grad_()
    optimiser = torch.optim.AdamW([z], lr=LEARNING_RATE)
    running = torch.ones(len(base), dtype=torch.bool)
    spent, last = torch.ones(len(base), dtype=torch.long), torch.full((len(base),), torch.inf)
    for update in range(1, UPDATES + 1):
        kept = z.detach().clone()
        with torch.enable_grad():
            each = (z - f(z)).square().flatten(1).mean(1)
            (z.grad,) = torch.autograd.grad(each.sum(), [z])
        optimiser.step()
        with torch.no_grad():
            z.copy_(torch.where(per_row(running.to(z.device), z) > 0, z, kept))
        loss = each.detach().cpu().to(last.dtype)
        spent += running
        last = torch.where(running, loss, last)
        _record(recorder, rows.cpu().numpy(), i, update, running.numpy(), loss)
        running = running & loss.isfinite() & (loss >= THRESHOLD)
        if not bool(running.any()):
            break
    return z.detach(), spent, last


def _record(
    recorder: Recorder, images: NDArray[np.int64], step: int, update: int, running: NDArray[np.bool_], loss: Tensor
) -> None:
    """One row of the records for each running image; what is not measured is NaN."""
    chosen = images[running]
    intra = loss.sqrt().numpy()[running]
    ended = (intra**2 < THRESHOLD) | (update == UPDATES)
    unknown = np.full(len(chosen), np.nan)
    status = np.where(intra**2 < THRESHOLD, Status.CONVERGED, Status.MAX_ITERATIONS)
    codes = np.where(ended, status, Status.RUNNING)
    columns = (chosen, np.full(len(chosen), step), np.full(len(chosen), update), codes)
    recorder.add(*columns, intra, unknown, unknown, unknown)
