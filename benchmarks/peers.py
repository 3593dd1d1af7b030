"""The same job the way others do it: diffusers' loops, and fixed-point code for one image at a time.

Both are written as lean as can be, without recording or checks, in the UNet's dtype, and without the pipeline's own
bookkeeping, so that what is compared is the way of working and not the craft of the loop.
"""

from __future__ import annotations

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Condition, Model


def network(model: Model, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """The UNet as a pipeline calls it: one timestep for all rows, one prompt for all rows."""
    text = condition.embeddings.to(z.dtype).expand(len(z), -1, -1)
    output: Tensor = model.unet(z, t, encoder_hidden_states=text, return_dict=False)[0]
    return output


@torch.no_grad()
def diffusers_loop(model: Model, pixels: Tensor, steps: int, source: str, target: str, batch_size: int) -> Tensor:
    """DDIMInverseScheduler under ``source``, DDIMScheduler under ``target``: (M, 3, H, W) in [0, 1], both ways."""
    inverse = DDIMInverseScheduler.from_config(model.scheduler.config, timestep_spacing="trailing")
    forward = DDIMScheduler.from_config(model.scheduler.config, timestep_spacing="trailing")
    inverse.set_timesteps(steps, device=model.device)
    forward.set_timesteps(steps, device=model.device)
    conditions = model.embed([source]), model.embed([target])
    results = []
    for part in pixels.split(batch_size):
        z = model.encode(part * 2 - 1).to(model.dtype)
        for scheduler, condition in zip((inverse, forward), conditions, strict=True):
            for t in scheduler.timesteps:
                z = scheduler.step(network(model, z, t, condition), t, z).prev_sample
        results.append((model.decode(z).cpu() + 1) / 2)
    return torch.cat(results)


@torch.no_grad()
def fixed_point_latents(
    model: Model, schedule: Schedule, z0: Tensor, source: str, iterations: int, batch_size: int = 1
) -> Tensor:
    """Plain fixed-point inversion with a fixed count (paper Eq. 6), z⁰ = z_{t-1}: the path (M, N + 1, C, h, w)."""
    condition, there = model.embed([source]), schedule.to(z0.device, z0.dtype)
    paths = []
    for z in z0.split(batch_size):
        path = [z]
        for i in range(len(schedule)):
            step = torch.full((len(z),), i, device=z.device)
            base = float(schedule.phi[i]) * z
            for _ in range(iterations):
                output = network(model, z.to(model.dtype), there.timesteps[i], condition).to(z.dtype)
                z = base + float(schedule.psi[i]) * there.direction(output, z, step)
            path.append(z)
        paths.append(torch.stack(path, 1))
    return torch.cat(paths)


@torch.no_grad()
def fixed_point_loop(
    model: Model, pixels: Tensor, steps: int, source: str, target: str, iterations: int, batch_size: int = 1
) -> Tensor:
    """Fixed-point inversion under ``source`` and diffusers' sampling under ``target``: (M, 3, H, W) in [0, 1]."""
    schedule = Schedule.from_scheduler(model.scheduler, steps, "trailing")
    forward, condition = (
        DDIMScheduler.from_config(model.scheduler.config, timestep_spacing="trailing"),
        model.embed([target]),
    )
    forward.set_timesteps(steps, device=model.device)
    results = []
    for part in pixels.split(batch_size):
        z0 = model.encode(part * 2 - 1)
        z = fixed_point_latents(model, schedule, z0, source, iterations, batch_size)[:, -1].to(model.dtype)
        for t in forward.timesteps:
            z = forward.step(network(model, z, t, condition), t, z).prev_sample
        results.append((model.decode(z).cpu() + 1) / 2)
    return torch.cat(results)
