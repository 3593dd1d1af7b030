"""Another noise schedule for a trained network: it is driven at the trained timestep whose noise level is nearest."""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers import DDIMScheduler

from fpcore.inversion.schedule import Schedule, TimestepSpacing

NoiseSchedule = Literal["trained", "linear", "scaled_linear", "cosine"]
BETAS: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},  # DDPM
    # Stable Diffusion's, with its offset
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


def schedule_at_levels_of(
    trained: Any, levels: NoiseSchedule, num_inference_steps: int, spacing: TimestepSpacing | None = None
) -> Schedule:
    """The pairs of another DDIM schedule, for a network trained with the scheduler ``trained``.

    A variance-preserving network sees only the level σ̃ = s/a of its input, so it can serve any schedule: its timestep
    is the trained one with the nearest ln σ̃. Its ε, v or x0 is converted at the exact level. ``"trained"`` keeps the
    network's own betas and, unless ``spacing`` is given, its spacing; the others are leading by default.

    Raises ValueError for a name not listed or a number of steps out of range.
    """
    config = trained.config
    if levels != "trained" and levels not in BETAS:
        raise ValueError(f"unknown noise schedule {levels!r}; choose from trained, {', '.join(BETAS)}")
    if levels == "trained":
        own = {"trained_betas": trained.betas.tolist(), "steps_offset": config.steps_offset}
        betas, usual = own, config.timestep_spacing
    else:
        betas, usual = BETAS[levels], "leading"
    maker: Any = DDIMScheduler
    scheduler = maker(
        num_train_timesteps=config.num_train_timesteps,
        prediction_type=config.prediction_type,
        timestep_spacing=spacing or usual,
        clip_sample=False,
        set_alpha_to_one=False,
        **betas,
    )
    wanted = Schedule.from_scheduler(scheduler, num_inference_steps)
    alphas = trained.alphas_cumprod.double()
    known, sought = torch.log(1 / alphas - 1), torch.log(1 / wanted.alpha - 1)
    nearest = (known[None] - sought[:, None]).abs().argmin(1)
    return Schedule(nearest, wanted.signal_prev, wanted.noise_prev, wanted.signal, wanted.noise, wanted.prediction_type)
