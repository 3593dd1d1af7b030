"""Deterministic DDIM (or flow) sampling: the inversion's steps walked backwards."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fpcore.invert import Cancelled, Predict
from fpcore.schedule import Schedule


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

    The last batch is filled up with repeated rows whose results are dropped, so that every call has one shape. Raises
    ``Cancelled`` between evaluations if ``should_stop`` says so.
    """
    count, result = len(latents), latents.clone()
    size = max(1, min(batch_size, count))
    for start in range(0, count, size):
        rows = torch.arange(start, start + size, device=latents.device).clamp_max(count - 1)
        z = latents[rows]
        for i in reversed(range(len(schedule))):
            if should_stop is not None and should_stop():
                raise Cancelled("stopped between two evaluations")
            if schedule.psi[i] == 0:
                continue
            step = torch.full((size,), i)
            output = predict(z, schedule.timesteps[i].to(z.device).expand(size), rows)
            d = schedule.direction(output.to(z.dtype), z, step)
            z = (z - float(schedule.psi[i]) * d) / float(schedule.phi[i])
        kept = min(size, count - start)
        result[start : start + kept] = z[:kept]
        if on_images_done is not None:
            on_images_done(start + kept)
    return result
