"""Deterministic DDIM (or flow) sampling: the inversion's steps walked backwards."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fpcore.inversion.invert import Cancelled, Predict
from fpcore.inversion.schedule import Schedule


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
