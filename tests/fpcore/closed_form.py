"""Schedules and mixtures that tests share."""

import torch
from diffusers import DDIMScheduler

from fpcore.inversion.gaussian_mixture import GaussianMixture
from fpcore.inversion.schedule import Schedule


def sd_schedule(count: int, prediction: str = "epsilon", spacing: str = "leading") -> Schedule:
    """Stable Diffusion's schedule."""
    ddim = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1 if spacing == "leading" and count < 999 else 0, timestep_spacing=spacing, prediction_type=prediction,
    )  # fmt: skip
    return Schedule.from_scheduler(ddim, count)


def mixture(schedule: Schedule, dtype: torch.dtype = torch.float64, seed: int = 0) -> GaussianMixture:
    """Three Gaussians in 4 × 4 × 4 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn((3, 4, 4, 4), generator=generator, dtype=torch.float64).to(dtype)
    return GaussianMixture(
        means, torch.tensor([0.1, 0.05, 0.3], dtype=dtype), torch.tensor([0.3, 0.3, 0.4], dtype=dtype), schedule
    )


def gaussian(schedule: Schedule, dtype: torch.dtype = torch.float64) -> GaussianMixture:
    """One Gaussian: f is linear."""
    generator = torch.Generator().manual_seed(1)
    means = torch.randn((1, 4, 4, 4), generator=generator, dtype=torch.float64).to(dtype)
    return GaussianMixture(means, torch.tensor([0.2], dtype=dtype), torch.tensor([1.0], dtype=dtype), schedule)
