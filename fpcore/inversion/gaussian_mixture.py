"""A denoiser known in closed form: data drawn from a Gaussian mixture. Its fixed points test everything else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fpcore.inversion.schedule import Schedule, per_row


@dataclass(frozen=True)
class GaussianMixture:
    """x0 ~ Σ_j p_j N(m_j, λ_j I): ``means`` (J, C, h, w), ``variances`` (J,), ``weights`` (J,), and the schedule it is
    seen through.

    For z = a x0 + s n the posterior mean is E[x0|z] = Σ_j w_j(z) (m_j + a λ_j/(a² λ_j + s²) (z − a m_j)) with
    w_j(z) ∝ p_j N(z; a m_j, (a² λ_j + s²) I), and the ideal ε is (z − a E[x0|z])/s.
    """

    means: Tensor
    variances: Tensor
    weights: Tensor
    schedule: Schedule

    def posterior_mean(self, z: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """E[x0|z] for z (B, C, h, w) at signal a and noise s, each (B,)."""
        a2, s2 = a[:, None] ** 2, s[:, None] ** 2
        total = a2 * self.variances + s2  # (B, J)
        centred = z[:, None] - a.view(-1, 1, 1, 1, 1) * self.means  # (B, J, C, h, w)
        square = centred.flatten(2).square().sum(2)
        n = z[0].numel()
        responsibility = torch.softmax(self.weights.log() - square / (2 * total) - n / 2 * total.log(), 1)
        gain = a[:, None] * self.variances / total
        each = self.means + gain[..., None, None, None] * centred
        return (responsibility[..., None, None, None] * each).sum(1)

    def predict(self, z: Tensor, timestep: Tensor, image: Tensor) -> Tensor:
        """What an ideal network of the schedule's prediction type would output: a ``fpcore.inversion.invert.Predict``."""
        del image
        listed = self.schedule.timesteps.to(timestep)
        step = (listed[None] - timestep[:, None]).abs().argmin(1)
        a, s = self.schedule.signal[step].to(z), self.schedule.noise[step].to(z)
        x0 = self.posterior_mean(z, a, s)
        a, s = per_row(a, z), per_row(s, z)
        noise = (z - a * x0) / s
        match self.schedule.prediction_type:
            case "epsilon":
                return noise
            case "v_prediction":
                return a * noise - s * x0
            case "sample":
                return x0
            case _:
                return noise - x0

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """``count`` samples of x0."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn((count, *self.means.shape[1:]), generator=generator, dtype=self.means.dtype)
        return self.means[chosen] + per_row(self.variances[chosen].sqrt(), noise) * noise
