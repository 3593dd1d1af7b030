"""How the next iterate is made from the last ones. A solver knows vectors, not diffusion, and never loops.

Rows (B, …) are independent. ``fresh`` (B,) marks rows at their first iteration of a new problem: whatever the memory
holds for them belongs to another problem and is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Memory = tuple[Tensor, ...]


def where_row(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Choose whole rows: mask (B,), yes and no (B, …)."""
    return torch.where(mask.view(-1, *[1] * (no.ndim - 1)), yes, no)


class Solver(Protocol):
    """One way of iterating z = f(z)."""

    def init(self, z: Tensor) -> Memory:
        """An empty memory for rows like ``z``."""
        ...

    def step(self, z: Tensor, f: Tensor, fresh: Tensor, iteration: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
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

    def step(self, z: Tensor, f: Tensor, fresh: Tensor, iteration: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """See Solver."""
        del fresh, iteration
        return (f if self.damping == 1 else torch.lerp(z, f, self.damping)), memory

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

    def step(self, z: Tensor, f: Tensor, fresh: Tensor, iteration: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """See Solver."""
        del iteration
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
class Averaging:
    """ReNoise (Garibi et al. 2024): Picard iterates; the answer is the mean of f over the iterations from ``first`` on."""

    first: int = 2

    def init(self, z: Tensor) -> Memory:
        """See Solver: the mean so far and how many iterates it holds."""
        return torch.zeros_like(z), z.new_zeros(len(z))

    def step(self, z: Tensor, f: Tensor, fresh: Tensor, iteration: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """See Solver."""
        del z
        mean, count = memory
        restart = fresh | (iteration <= self.first)
        count = torch.where(restart, 1, count + 1)
        weight = (1 / count).to(f.dtype).view(-1, *[1] * (f.ndim - 1))
        return f, (where_row(restart, f, mean + weight * (f - mean)), count)

    def result(self, f: Tensor, memory: Memory) -> Tensor:
        """See Solver."""
        del f
        return memory[0]
