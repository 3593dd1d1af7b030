"""Fixed-point DDIM inversion: the loop, with continuous batching over rows.

The network takes a timestep per row, so the rows of one batch may belong to different images, steps and iterations. A
row whose fixed point is found moves on to its own next step; when its image is done the row is given to the next image.
The batch stays full while images wait, then shrinks; one hard image costs nobody else anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fpcore.inversion.criteria import Status
from fpcore.inversion.methods import Method
from fpcore.inversion.path_bound import path_bound
from fpcore.inversion.records import Recorder
from fpcore.inversion.renoise import renoise_steps
from fpcore.inversion.result import Cancelled as Cancelled
from fpcore.inversion.result import Inversion as Inversion
from fpcore.inversion.result import Predict as Predict
from fpcore.inversion.schedule import Schedule
from fpcore.inversion.solvers import Averaging, GradientDescent
from fpcore.inversion.spdinv import invert_spd
from fpcore.inversion.step import compact_slots, constants, empty_state, insert_slots, take_step
from fpcore.inversion.stepwise import walk


def _perturbations(like: Tensor, paths: int, seeds: list[int]) -> Tensor:
    """n ~ N(0, I) for each further path of each image, from the image's own seed and a CPU generator: (n, K − 1, C, h, w)."""
    shape = (paths - 1, *like.shape[1:])
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(like.device, like.dtype) if drawn else like.new_empty((0, *shape))


@torch.no_grad()
def invert(
    predict: Predict,
    schedule: Schedule,
    z0: Tensor,
    method: Method,
    *,
    batch_size: int = 8,
    seeds: list[int] | None = None,
    keep_trajectory: bool = False,
    on_images_done: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Inversion:
    """Invert M images: z_{t-1} → z_t along ``schedule``, each step the fixed point of f (paper Eq. 3-6).

    Args:
        predict: the network, without guidance (w = 1).
        z0: latents (M, C, h, w), fp32 or fp64; the state and all residuals stay in that dtype.
        batch_size: images in flight; the network sees ``batch_size`` × ``method.paths`` rows a call, fewer at the end.
        seeds: one per image, for the paths' perturbations.
        on_images_done: called with the number of images finished so far.
        should_stop: asked between evaluations; if true, ``Cancelled`` is raised.

    Returns:
        The inverted latents and every step's record. The verdicts are the one device-to-host transfer of a call.
    """
    if isinstance(method.solver, GradientDescent):
        return invert_spd(
            predict, schedule, z0, batch_size=batch_size, keep_trajectory=keep_trajectory,
            on_images_done=on_images_done, should_stop=should_stop,
        )  # fmt: skip
    if isinstance(method.solver, Averaging) and method.solver.regularised:
        return walk(
            renoise_steps(predict, schedule, z0, method.solver, seeds), schedule, z0, batch_size=batch_size,
            keep_trajectory=keep_trajectory, on_images_done=on_images_done, should_stop=should_stop,
        )  # fmt: skip
    walked, original = schedule.take(schedule.real), schedule.real.numpy()
    count, steps, k = len(z0), len(walked), method.paths
    slots = max(1, min(batch_size, count))
    seeds = list(range(count)) if seeds is None else seeds
    c = constants(walked, method, z0)
    timesteps = c.schedule.timesteps
    state, recorder = empty_state(z0, slots, method), Recorder()
    latents, nfe, worst = z0.clone(), np.zeros(count, np.int64), np.zeros(count, np.int64)
    trajectory = z0[:, None].repeat(1, len(schedule) + 1, *[1] * (z0.ndim - 1)) if keep_trajectory else None
    image, step, iteration = np.full(slots, -1), np.zeros(slots, np.int64), np.zeros(slots, np.int64)
    waiting, finished = 0, 0 if steps else count

    while finished < count:
        free = np.flatnonzero(image < 0)[: count - waiting]
        if len(free):
            entering = np.arange(waiting, waiting + len(free))
            waiting += len(free)
            image[free], step[free], iteration[free] = entering, 0, 0
            noise = _perturbations(z0, k, [seeds[i] for i in entering])
            state = insert_slots(state, torch.from_numpy(free).to(z0.device), z0[entering], noise)
        if (image < 0).any():  # nobody waits for these rows: go on without them
            kept = np.flatnonzero(image >= 0)
            state = compact_slots(state, torch.from_numpy(kept).to(z0.device), k)
            image, step, iteration = image[kept], step[kept], iteration[kept]
        if should_stop is not None and should_stop():
            raise Cancelled("stopped between two evaluations")
        rows = torch.from_numpy(image).to(z0.device)
        at = state.step.clamp_max(steps - 1)
        state = replace(state, step=at)
        output = predict(state.z.flatten(0, 1), timesteps[at].repeat_interleave(k), rows.repeat_interleave(k))
        state, verdicts = take_step(state, output, c, method)
        seen = dict(zip(verdicts._fields, torch.stack(verdicts).cpu().numpy(), strict=True))

        codes = seen["status"].astype(np.int64)
        iteration += 1
        nfe[image] += k
        next_step = seen["next_step"].astype(np.int64)
        back = np.flatnonzero(next_step < step)
        step[back] = next_step[back]  # the failed check of a speculative step is that step's first record
        numbers = (seen[name] for name in ("intra", "inter", "bound", "rate"))
        recorder.add(image, original[step], iteration, codes, *numbers)
        done = np.flatnonzero(codes != Status.RUNNING)
        worst[image[done]] = np.maximum(worst[image[done]], codes[done])
        if trajectory is not None and len(done):
            for slot in done:  # host bookkeeping only; the copies are queued on the device
                speculated = next_step[slot] > step[slot] + 1
                trajectory[image[slot], original[step[slot]] + 1 :] = (state.anchor if speculated else state.base)[slot]
                if speculated:
                    trajectory[image[slot], original[step[slot] + 1] + 1 :] = state.base[slot]
        step[done] = next_step[done]
        iteration[done] = 0
        over = done[(step[done] >= steps) | (worst[image[done]] == Status.NONFINITE)]
        if len(over):
            latents[torch.from_numpy(image[over]).to(z0.device)] = state.base[torch.from_numpy(over).to(z0.device)]
            finished += len(over)
            image[over] = -1
            if on_images_done is not None:
                on_images_done(finished)
    status, records = [Status(int(w)) for w in worst], recorder.finish()
    bounds = path_bound(records, schedule, method, count).tolist()
    return Inversion(latents, status, nfe.tolist(), records, bounds, trajectory)
