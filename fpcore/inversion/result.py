"""What an inversion is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fpcore.inversion.criteria import Status
from fpcore.inversion.records import StepRecords

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(z (R, C, h, w), timestep (R,), image index (R,)) → the network's raw output (R, C, h, w)."""


class Cancelled(Exception):
    """The caller asked the engine to stop between two evaluations."""


@dataclass(frozen=True)
class Inversion:
    """The result for M images.

    ``latents`` (M, C, h, w): z_T. ``status`` (M,): the worst of each image's steps. ``nfe`` (M,): network rows computed.
    ``path_bound`` (M,): a bound on RMS(z_T − exact z_T), infinite or NaN where there is none (``fpcore.inversion.path_bound``).
    ``trajectory`` (M, N + 1, C, h, w) if asked for: the state before the first step and after each. An image whose
    status is NONFINITE was abandoned where it happened, its latent is the last finite state and no inversion.
    """

    latents: Tensor
    status: list[Status]
    nfe: list[int]
    records: StepRecords
    path_bound: list[float]
    trajectory: Tensor | None = None
