"""When is a fixed point found? One verdict a row, from numbers already at hand.

Measures are taken per row as RMS(x) = ‖x‖₂/√numel in fp32. None of the criteria is ever differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor


class Status(IntEnum):
    """What became of a row's step, from good to bad; the worst step names the image."""

    RUNNING = -1
    CONVERGED = 0
    COMPLETED = 1  # a fixed number of iterations was asked for and done; convergence was not judged
    NOT_NOISE = 2  # an exact sampler's latent that comes back exactly and is no noise to sample or edit from
    UNCERTIFIED = (
        3  # the residual is small enough for an ideal denoiser, but f contracts too slowly here to promise more
    )
    MAX_ITERATIONS = 4
    STAGNATED = 5
    OSCILLATING = 6
    AMBIGUOUS = 7  # every path found a fixed point, and not the same one
    DIVERGING = 8
    NONFINITE = 9

    @property
    def label(self) -> str:
        """The status as users read it."""
        return self.name.lower().replace("_", "-")


def rms(x: Tensor) -> Tensor:
    """Root mean square over all but the first axis: (B, …) → (B,) fp32 (fp64 for fp64 input)."""
    x = x if x.dtype == torch.float64 else x.float()
    return x.flatten(1).square().mean(1).sqrt()


@dataclass(frozen=True)
class Measures:
    """Per row (B,): RMS(f(z) − z) of the unperturbed path, and the largest of all paths; the largest RMS(f(z) − f(ẑ)), NaN
    with one path; the certified bound; the iteration, from 1; the timestep the step leads to.
    """

    intra: Tensor
    widest: Tensor
    inter: Tensor
    bound: Tensor
    iteration: Tensor
    timestep: Tensor


class Criterion(Protocol):
    """A stopping rule."""

    @property
    def paths(self) -> int:
        """How many paths it needs beside each other."""
        ...

    @property
    def reached(self) -> Status:
        """What to call a row for which ``met`` holds."""
        ...

    def met(self, m: Measures) -> Tensor:
        """(B,) bool: stop here."""
        ...


@dataclass(frozen=True)
class IntraPath:
    """RMS(f(z) − z) < tolerance: the test of AIDI (Pan et al. 2023) and FPI; flat after two or three iterations."""

    tolerance: float = 1e-3
    paths: int = 1
    reached: Status = Status.CONVERGED

    def met(self, m: Measures) -> Tensor:
        """See Criterion."""
        return m.intra < self.tolerance


@dataclass(frozen=True)
class InterPath:
    """RMS(f(z) − f(ẑ)) < tolerance for paths ẑ⁰ = z⁰ + n, n ~ N(0, I): the paper's test (§4)."""

    tolerance: float = 1e-3
    paths: int = 2
    reached: Status = Status.CONVERGED

    def met(self, m: Measures) -> Tensor:
        """See Criterion."""
        return m.inter < self.tolerance


@dataclass(frozen=True)
class Certified:
    """r/(1−r) · RMS(f(z) − z) < tolerance, r = max(r_t, q̂): an a-posteriori bound on RMS(f(z) − z*) from one path."""

    tolerance: float = 1e-3
    paths: int = 1
    reached: Status = Status.CONVERGED

    def met(self, m: Measures) -> Tensor:
        """See Criterion."""
        return m.bound < self.tolerance


@dataclass(frozen=True)
class FixedIterations:
    """Stop after ``iterations``, whatever the residual; one is plain DDIM inversion."""

    iterations: int = 1
    paths: int = 1
    reached: Status = Status.COMPLETED

    def met(self, m: Measures) -> Tensor:
        """See Criterion."""
        return m.iteration >= self.iterations


def certified_bound(residual: Tensor, rate: Tensor) -> Tensor:
    """‖f(z) − z*‖ ≤ r/(1−r) ‖f(z) − z‖ where f contracts at rate r < 1 (Banach); infinite otherwise. All (B,)."""
    return torch.where(rate < 1, rate / (1 - rate) * residual, torch.inf)
