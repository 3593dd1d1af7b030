"""The walk of methods that are no iteration of the engine's: a batch takes each step together, solved by the method's own
function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fpcore.inversion.criteria import Status
from fpcore.inversion.records import Recorder
from fpcore.inversion.result import Cancelled, Inversion
from fpcore.inversion.schedule import Schedule
from fpcore.inversion.solvers import where_row


class Solve(Protocol):
    """One step of a batch."""

    def __call__(self, step: int, base: Tensor, rows: Tensor, recorder: Recorder) -> tuple[Tensor, Tensor, Tensor]:
        """z_t (B, C, h, w) from z_{t-1} = ``base`` of the images ``rows`` (B,); evaluations spent (B,) and statuses (B,),
        both in main memory."""
        ...


def walk(
    solve: Solve,
    schedule: Schedule,
    z0: Tensor,
    *,
    batch_size: int,
    keep_trajectory: bool = False,
    on_images_done: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Inversion:
    """Invert M images (M, C, h, w), ``batch_size`` at a time; arguments and result as in ``fpcore.inversion.invert``.

    An image that is not finite any more keeps its last state. Raises Cancelled between two steps.
    """
    recorder, nfe = Recorder(), torch.zeros(len(z0), dtype=torch.long)
    trajectory = z0[:, None].repeat(1, len(schedule) + 1, *[1] * (z0.ndim - 1)) if keep_trajectory else None
    latents, worst = z0.clone(), torch.zeros(len(z0), dtype=torch.long)
    for rows in torch.arange(len(z0), device=z0.device).split(max(1, batch_size)):
        z, at = z0[rows], rows.cpu()
        for step in schedule.real.tolist():
            if should_stop is not None and should_stop():
                raise Cancelled("stopped between two steps")
            found, spent, status = solve(step, z, rows, recorder)
            nfe[at] += spent
            sound = found.flatten(1).isfinite().all(1)
            worst[at] = torch.maximum(worst[at], torch.where(sound.cpu(), status, int(Status.NONFINITE)))
            z = where_row(sound & (worst[at] < Status.NONFINITE).to(sound.device), found, z)
            if trajectory is not None:
                trajectory[rows, step + 1 :] = z[:, None]
        latents[rows] = z
        if on_images_done is not None:
            on_images_done(int(at[-1]) + 1)
    ends = [Status(int(code)) for code in worst]
    return Inversion(latents, ends, nfe.tolist(), recorder.finish(), [float("nan")] * len(z0), trajectory)


def record(
    recorder: Recorder, images: NDArray[np.int64], step: int, iteration: int, status: NDArray[np.int64], intra: Tensor
) -> None:
    """One evaluation: a row of the records for each image; what is not measured is NaN."""
    unknown = np.full(len(images), np.nan)
    at = (images, np.full(len(images), step), np.full(len(images), iteration), status)
    recorder.add(*at, intra.cpu().numpy(), unknown, unknown, unknown)
