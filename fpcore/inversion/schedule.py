"""The steps of a deterministic sampler as explicit pairs, and the conversion of what a network predicts.

Everything that is known about a scheduler stands here. A state is z = a·x0 + s·ε with signal a and noise s: a = √ᾱ,
s = √(1−ᾱ) for DDIM; a = 1−σ, s = σ for rectified flow. One deterministic step solves the same equation in both,

    f(z_t) = φ_t z_{t-1} + ψ_t d(z_t, t),        z_{t-1} = (z_t − ψ_t d(z_t, t)) / φ_t,

with d = ε, φ = a_t/a_{t-1}, ψ = s_t − s_{t-1} φ for DDIM (paper Eq. 3-6), and d = velocity, φ = 1, ψ = σ_t − σ_{t-1} for flow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow"]
TimestepSpacing = Literal["trailing", "leading", "linspace", "log-sigma"]
"""Where the steps lie: diffusers' three are uniform in t, ``log-sigma`` is uniform in ln σ̃ (``log_sigma_timesteps``)."""


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Shape (B,) values so that they multiply (B, …) ``like``, in its dtype and on its device."""
    return values.to(like.device, like.dtype).view(-1, *[1] * (like.ndim - 1))


def log_sigma_timesteps(alphas: Tensor, count: int) -> Tensor:
    """``count`` ascending timesteps whose ln σ̃ are as evenly spaced as the trained levels ``alphas`` (T,) allow.

    r_t = 1 − σ̃_{t-1}/σ̃_t depends on the ratio of neighbouring levels alone, so even steps of ln σ̃ contract alike. The
    first step starts from timestep 0, the last one ends at T − 1. Where levels lie so far apart that two steps would
    share one, the later takes the next.
    """
    alphas = alphas[alphas > 0]  # zero terminal SNR: the last level has no logarithm, and a step to it no inverse
    levels = torch.log(1 / alphas - 1) / 2
    wanted = levels[0] + (levels[-1] - levels[0]) * torch.arange(1, count + 1) / count
    nearest = (levels - wanted[:, None]).abs().argmin(1).tolist()
    spare = len(alphas) - count
    chosen = [min(spare, 1) - 1]  # the level the first step starts from
    for i, t in enumerate(nearest):
        chosen.append(min(max(t, chosen[-1] + 1), spare + i))
    return torch.tensor(chosen[1:])


@dataclass(frozen=True)
class Schedule:
    """N steps in the order of inversion; sampling walks the same pairs backwards.

    ``timesteps`` (N,): the model's timestep that step i leads to. ``signal_prev``, ``noise_prev`` (N,) float64: the
    level the step starts from; ``signal``, ``noise`` (N,) float64: the level it leads to. Raises ValueError for levels
    that cannot be inverted.
    """

    timesteps: Tensor
    signal_prev: Tensor
    noise_prev: Tensor
    signal: Tensor
    noise: Tensor
    prediction_type: PredictionType = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction_type not in ("epsilon", "v_prediction", "sample", "flow"):
            raise ValueError(
                f"prediction type {self.prediction_type!r} is not one of epsilon, v_prediction, sample, flow"
            )
        if self.prediction_type != "flow" and bool((self.signal <= 0).any()):
            raise ValueError(
                "the schedule ends at zero signal (zero terminal SNR), where a DDIM step forgets its start and has no inverse; "
                "set rescale_betas_zero_snr to false or use fewer, earlier timesteps"
            )

    def __len__(self) -> int:
        return len(self.timesteps)

    @classmethod
    def from_alphas(
        cls, timesteps: Tensor, alpha_prev: Tensor, alpha: Tensor, prediction_type: Any = "epsilon"
    ) -> Schedule:
        """From pairs of cumulative alphas ᾱ_{t-1}, ᾱ_t, each (N,)."""
        prev, now = alpha_prev.double(), alpha.double()
        return cls(timesteps, prev.sqrt(), (1 - prev).sqrt(), now.sqrt(), (1 - now).sqrt(), prediction_type)

    @classmethod
    def from_scheduler(
        cls, scheduler: Any, num_inference_steps: int, timestep_spacing: TimestepSpacing | None = None
    ) -> Schedule:
        """The pairs that a ``DDIMScheduler`` (or ``FlowMatchEulerDiscreteScheduler``) walks in that many steps.

        ``timestep_spacing`` None: the one the scheduler's own configuration names. For diffusers' spacings its rule for the
        neighbour of a timestep, t − T // N, is kept, also where it differs from the previous element of the list, so that
        samples agree with diffusers'. Raises ValueError for a spacing or a number of steps that cannot be.
        """
        config = scheduler.config
        if not 1 <= num_inference_steps <= config.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps must be 1 to {config.num_train_timesteps}, not {num_inference_steps}"
            )
        if not hasattr(scheduler, "alphas_cumprod"):
            return cls._of_flow(scheduler, num_inference_steps, timestep_spacing)
        spacing = timestep_spacing or config.timestep_spacing
        if spacing not in get_args(TimestepSpacing):
            raise ValueError(f"unknown spacing {spacing!r}; choose from {', '.join(get_args(TimestepSpacing))}")
        alphas, final = scheduler.alphas_cumprod.double(), torch.as_tensor(scheduler.final_alpha_cumprod).double()
        if spacing == "log-sigma":
            timesteps = log_sigma_timesteps(alphas, num_inference_steps)
            before = torch.cat([timesteps.new_tensor([-1]), timesteps[:-1]])
        else:
            if spacing != config.timestep_spacing:
                scheduler = type(scheduler).from_config(config, timestep_spacing=spacing)
            scheduler.set_timesteps(num_inference_steps)
            timesteps = scheduler.timesteps.cpu().long().flip(0)
            before = timesteps - config.num_train_timesteps // num_inference_steps
        if int(timesteps[-1]) >= config.num_train_timesteps:
            raise ValueError(
                f"{num_inference_steps} {spacing} steps with steps_offset {config.steps_offset} end at "
                f"timestep {int(timesteps[-1])}, and the model was trained up to {config.num_train_timesteps - 1}: "
                f"use at most {num_inference_steps - 1} steps"
            )
        alpha_prev = torch.where(before >= 0, alphas[before.clamp_min(0)], final)
        return cls.from_alphas(timesteps, alpha_prev, alphas[timesteps], config.prediction_type)

    @classmethod
    def _of_flow(cls, scheduler: Any, num_inference_steps: int, timestep_spacing: TimestepSpacing | None) -> Schedule:
        if timestep_spacing is not None:
            raise ValueError("rectified flow has its own spacing of σ (shift): leave timestep_spacing out")
        scheduler.set_timesteps(num_inference_steps)
        sigma = scheduler.sigmas.double().flip(0)
        before, after = sigma[:-1], sigma[1:]
        return cls(scheduler.timesteps.flip(0).cpu(), 1 - before, before, 1 - after, after, "flow")

    @property
    def evaluations(self) -> int:
        """Network rows that one walk along the steps takes: identity steps (ψ = 0) take none."""
        return int((self.psi != 0).sum())

    @property
    def alpha_prev(self) -> Tensor:
        """ᾱ_{t-1} (N,), meaningful for DDIM."""
        return self.signal_prev**2

    @property
    def alpha(self) -> Tensor:
        """ᾱ_t (N,), meaningful for DDIM."""
        return self.signal**2

    @cached_property
    def phi(self) -> Tensor:
        """φ (N,) [paper Eq. 4]; 1 for flow."""
        return torch.ones_like(self.signal) if self.prediction_type == "flow" else self.signal / self.signal_prev

    @cached_property
    def psi(self) -> Tensor:
        """ψ (N,) [paper Eq. 4]; σ_t − σ_{t-1} for flow. Zero means that the step is the identity."""
        if self.prediction_type == "flow":
            return self.noise - self.noise_prev
        return self.noise - self.noise_prev * self.phi

    @cached_property
    def rate(self) -> Tensor:
        """r (N,): the contraction rate of f for an ideal denoiser, r_t = ψ_t/√(1−ᾱ_t) = 1 − σ̃_{t-1}/σ̃_t.

        NaN where none is known: for flow, and for a step from zero noise, whose ratio 1 bounds nothing.
        """
        if self.prediction_type == "flow":
            return torch.full_like(self.psi, torch.nan)
        return torch.where(self.noise_prev > 0, self.psi / self.noise, torch.nan)

    @cached_property
    def level(self) -> Tensor:
        """Where a step leads, (N,), on the axis along which directions are extrapolated: ln σ̃, or σ for flow."""
        return self.noise if self.prediction_type == "flow" else torch.log(self.noise / self.signal)

    def direction(self, output: Tensor, z: Tensor, step: Tensor) -> Tensor:
        """d(z, t) from the network's ``output`` for rows (B, …) at ``step`` (B,): the one conversion of ε, v, x0 and flow."""
        if self.prediction_type in ("epsilon", "flow"):
            return output
        a, s = self._levels(z, step)
        if self.prediction_type == "v_prediction":
            return a * output + s * z
        return (z - a * output) / s

    def denoised(self, d: Tensor, z: Tensor, step: Tensor) -> Tensor:
        """The prediction of x0 that belongs to direction ``d`` at ``z`` (B, …), at ``step`` (B,)."""
        a, s = self._levels(z, step)
        return z - s * d if self.prediction_type == "flow" else (z - s * d) / a

    def _levels(self, z: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise of rows at ``step``, shaped to multiply ``z``. No transfer if the schedule lies on z's device."""
        at = step.to(self.signal.device)
        return per_row(self.signal[at], z), per_row(self.noise[at], z)

    @cached_property
    def real(self) -> Tensor:
        """Indices (n,) of the steps that are no identity, ψ ≠ 0: only these cost an evaluation."""
        return (self.psi != 0).nonzero().flatten()

    def take(self, steps: Tensor) -> Schedule:
        """The schedule of some steps, given by their indices in order."""
        names = ("timesteps", "signal_prev", "noise_prev", "signal", "noise")
        return replace(self, **{name: getattr(self, name)[steps] for name in names})

    def as_left(self) -> Schedule:
        """The levels that the steps start from in the place of those they lead to, for a network that is asked there.

        The first starts from timestep 0; from a level without noise, of which a network says nothing, it is asked as always.
        """
        before = torch.cat([self.timesteps.new_zeros(1), self.timesteps[:-1]])
        known = self.noise_prev > 0
        return replace(
            self,
            timesteps=torch.where(known.to(before.device), before, self.timesteps),
            signal=torch.where(known, self.signal_prev, self.signal),
            noise=torch.where(known, self.noise_prev, self.noise),
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> Schedule:
        """The same schedule with its levels on another device, to convert rows there without a transfer."""
        names = ("signal_prev", "noise_prev", "signal", "noise")
        levels = {name: getattr(self, name).to(device, dtype) for name in names}
        return replace(self, timesteps=self.timesteps.to(device), **levels)
