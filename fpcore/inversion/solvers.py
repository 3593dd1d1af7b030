"""How the next iterate is made from the last ones. A solver knows vectors, not diffusion, and never loops.

Rows (B, …) are independent. ``rate`` (B,) is what is known beforehand of how fast f contracts, NaN where nothing is.
``fresh`` (B,) marks rows at their first iteration of a new problem: whatever the memory holds for them belongs to another
problem and is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Memory = tuple[Tensor, ...]


@dataclass(frozen=True)
class Position:
    """Where a row stands: the iteration within its step, from 1, and the timestep the step leads to, each (B,)."""

    iteration: Tensor
    timestep: Tensor


def where_row(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Choose whole rows: mask (B,), yes and no (B, …)."""
    return torch.where(mask.view(-1, *[1] * (no.ndim - 1)), yes, no)


class Solver(Protocol):
    """One way of iterating z = f(z)."""

    def init(self, z: Tensor) -> Memory:
        """An empty memory for rows like ``z``."""
        ...

    def step(
        self, z: Tensor, f: Tensor, rate: Tensor, fresh: Tensor, at: Position, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """The next iterate from z and f(z)."""
        ...

    def result(self, f: Tensor, memory: Memory) -> Tensor:
        """The answer if the row stops after this evaluation."""
        ...


@dataclass(frozen=True)
class Picard:
    """z ← z + β (f(z) − z): the paper's iteration (Eq. 6) at β = 1, damped below."""

    damping: float = 1.0

    def init(self, z: Tensor) -> Memory:
        """See Solver."""
        del z
        return ()

    def step(
        self, z: Tensor, f: Tensor, rate: Tensor, fresh: Tensor, at: Position, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """See Solver."""
        del rate, fresh, at
        return (f if self.damping == 1 else torch.lerp(z, f, self.damping)), memory

    def result(self, f: Tensor, memory: Memory) -> Tensor:
        """See Solver."""
        del memory
        return f


@dataclass(frozen=True)
class GradientDescent(Picard):
    """SPDInv's: descent on MSE(z, f(z)), which needs the network's gradient. ``fpcore.inversion.spdinv`` runs it."""


@dataclass(frozen=True)
class Chebyshev:
    """Chebyshev semi-iteration (Golub & Varga 1961) for a symmetric Jacobian with eigenvalues in [−r ``below``, r].

        z_{k+1} = z_{k-1} + ω_{k+1} (γ (f(z_k) − z_k) + z_k − z_{k-1}),
        γ = 2/(2 − r + r below),   ρ = (r + r below)/(2 − r + r below),
        ω_1 = 1,   ω_2 = 1/(1 − ρ²/2),   ω_{k+1} = 1/(1 − ρ² ω_k/4)

    An ideal denoiser's J_f is symmetric and r_t is its bound, so that nothing needs to be estimated: the error falls by
    ρ/(1 + √(1 − ρ²)) an evaluation, .55 at ``below`` = 0 where plain iteration has r = .91. A trained denoiser also has
    negative eigenvalues. Where no rate is known it is the plain iteration.
    """

    below: float = 0.25

    def init(self, z: Tensor) -> Memory:
        """See Solver: the iterate before, and ω."""
        return torch.zeros_like(z), z.new_ones(len(z))

    def step(
        self, z: Tensor, f: Tensor, rate: Tensor, fresh: Tensor, at: Position, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """See Solver."""
        before, omega = memory
        r = rate.nan_to_num(0.0).clamp(0, 0.999)
        width, centre = r * (1 + self.below), 2 - r * (1 - self.below)
        rho_squared = (width / centre) ** 2
        omega = torch.where(at.iteration == 2, 1 / (1 - rho_squared / 2), 1 / (1 - rho_squared * omega / 4))
        omega = torch.where(fresh, 1.0, omega)
        shape = (-1, *[1] * (z.ndim - 1))
        relaxed = (2 / centre).view(shape) * (f - z)
        before = where_row(fresh, z, before)
        return before + omega.view(shape) * (relaxed + z - before), (z, omega)

    def result(self, f: Tensor, memory: Memory) -> Tensor:
        """See Solver."""
        del memory
        return f


@dataclass(frozen=True)
class Anderson:
    """Anderson acceleration (Walker & Ni 2011), window m ≤ 3, Tikhonov-regularised; AIDI's iteration (Pan et al. 2023).

    A row whose residual grew falls back to the plain iterate and forgets its history.
    """

    window: int = 2
    regularisation: float = 1e-4

    def init(self, z: Tensor) -> Memory:
        """See Solver: f and residual of the last ``window`` iterations (B, m, n), how many are valid, last residual norm."""
        history = z.new_zeros((len(z), self.window, z[0].numel()))
        return history, history.clone(), z.new_zeros(len(z), dtype=torch.long), z.new_full((len(z),), torch.inf)

    def step(
        self, z: Tensor, f: Tensor, rate: Tensor, fresh: Tensor, at: Position, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """See Solver."""
        del rate, at
        values, residuals, count, last = memory
        value, residual = f.flatten(1), (f - z).flatten(1)
        norm = residual.norm(dim=1)
        count = torch.where(fresh | (norm > last) | ~norm.isfinite(), 0, count)
        valid = torch.arange(self.window, device=z.device) < count[:, None]
        d_residual = torch.where(valid[..., None], residual[:, None] - residuals, 0)
        d_value = torch.where(valid[..., None], value[:, None] - values, 0)
        gram = d_residual @ d_residual.mT
        ridge = self.regularisation * gram.diagonal(dim1=1, dim2=2).amax(1).clamp_min(1e-30)
        gram = gram + torch.diag_embed(ridge[:, None] * valid + (~valid).to(z.dtype))
        right = (d_residual @ residual[..., None]).nan_to_num(0.0, 0.0, 0.0)
        gamma, _ = torch.linalg.solve_ex(gram.nan_to_num(1.0, 1.0, 1.0), right)
        mixed = value - (gamma * d_value).sum(1)
        after = (
            torch.cat([value[:, None], values[:, :-1]], 1),
            torch.cat([residual[:, None], residuals[:, :-1]], 1),
            (count + 1).clamp_max(self.window),
            norm,
        )
        return mixed.view_as(z), after

    def result(self, f: Tensor, memory: Memory) -> Tensor:
        """See Solver."""
        del memory
        return f


@dataclass(frozen=True)
class Rounds:
    """ReNoise's plan of a step: ``renoise`` + 1 evaluations, of which those from ``first`` to before ``end`` are averaged."""

    renoise: int
    first: int
    end: int


@dataclass(frozen=True)
class Averaging:
    """ReNoise (Garibi et al. 2024): plain iterates; the answer is the mean of f over a range of the evaluations.

    ``early``: the plan of steps that lead below timestep ``early_below``; ``late``: of the others. A range that the step
    never reaches is not averaged: its answer is the last f. ``regularised``: predictions are made more like noise first,
    which ``fpcore.inversion.renoise`` does.
    """

    late: Rounds
    early: Rounds
    early_below: int = 250
    regularised: bool = False

    def plan(self, timestep: float) -> Rounds:
        """The plan of the step that leads to ``timestep``."""
        return self.early if timestep < self.early_below else self.late

    def _plan(self, at: Position, name: str) -> Tensor:
        """A number of the plan, (B,)."""
        return torch.where(at.timestep < self.early_below, getattr(self.early, name), getattr(self.late, name))

    def finished(self, at: Position) -> Tensor:
        """(B,) bool: the step's last evaluation."""
        return at.iteration > self._plan(at, "renoise")

    def init(self, z: Tensor) -> Memory:
        """See Solver: the mean so far and how many iterates it holds."""
        return torch.zeros_like(z), z.new_zeros(len(z))

    def step(
        self, z: Tensor, f: Tensor, rate: Tensor, fresh: Tensor, at: Position, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """See Solver."""
        del z, rate, fresh
        mean, count = memory
        k = at.iteration - 1
        first = self._plan(at, "first")
        # before its range, the answer is f itself; after it, the mean that was found
        count = torch.where(k <= first, 1, count + 1)
        kept = (k > first) & (k >= self._plan(at, "end"))
        weight = (1 / count).to(f.dtype).view(-1, *[1] * (f.ndim - 1))
        return f, (where_row(kept, mean, where_row(k <= first, f, mean + weight * (f - mean))), count)

    def result(self, f: Tensor, memory: Memory) -> Tensor:
        """See Solver."""
        del f
        return memory[0]
