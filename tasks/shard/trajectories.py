"""The ``paths`` column: perturbed paths of one photo on their way to a common fixed point (the paper's Figure 2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fpcore.dehazing.dehaze import BY_PLACE, PAPER_WORDS
from fpcore.inversion.convergence import fixed_point_map, multi_start
from fpcore.inversion.oom import OOMBackoff
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model
from fpcore.models.sizing import pad
from tasks.config import RunConfig
from tasks.shard.outcome import Outcome
from tasks.store.schema import PATH

PATHS, ITERATIONS = 6, 10
"""Both steps together cost 2 · 6 · 10 + 1 rows of the UNet, once a plan."""


def add_paths(model: Model, config: RunConfig, outcomes: list[Outcome | None]) -> bool:
    """Give the first good photo its ``paths``; whether there was one."""
    for i, outcome in enumerate(outcomes):
        if outcome is not None and outcome.failure is None:
            outcomes[i] = replace(outcome, columns=replace(outcome.columns, paths=path_rows(model, config, outcome)))
            return True
    return False


def path_rows(model: Model, config: RunConfig, outcome: Outcome) -> list[dict[str, Any]]:
    """Entries of ``paths`` for one photo: its first inversion step, and the last where its latent was kept.

    Path 0 starts at z_{t-1}, the others at z_{t-1} + n, n ~ N(0, I), all under the row's source prompt, ``haze`` where
    words were weighted by place; ``x`` and ``y`` are coordinates along the two directions in which the paths vary most,
    seen from where path 0 ends.
    """
    start = model.latents_of(pad(outcome.source[None], model))[0]
    schedule = Schedule.from_scheduler(model.scheduler_for(start), config.num_inference_steps)
    predict = OOMBackoff(model.under(model.embed([_source(outcome.columns.prompt)])))
    first, last = int(schedule.real[0]), int(schedule.real[-1])
    starts = {first: start}
    latent = outcome.columns.latent
    if latent is not None and last != first:
        starts[last] = _before(predict, schedule, last, latent.to(starts[first]))
    tables = [
        multi_start(predict, schedule, base, step, paths=PATHS, iterations=ITERATIONS, seed=config.seed)
        for step, base in starts.items()
    ]
    names = [field.name for field in PATH]
    return [
        dict(zip(names, row, strict=True))
        for table in tables
        for row in zip(*(table[name].tolist() for name in names), strict=True)
    ]


def _source(prompt: str | None) -> str:
    return PAPER_WORDS[0] if prompt == BY_PLACE else prompt or ""


def _before(predict: OOMBackoff, schedule: Schedule, step: int, z: Tensor) -> Tensor:
    """z_{t-1} (C, h, w) of which ``z`` is the fixed point: f(z) = φ z_{t-1} + ψ d(z), solved for z_{t-1}."""
    image = torch.zeros(1, dtype=torch.long, device=z.device)
    moved = fixed_point_map(predict, schedule, step, torch.zeros_like(z)[None], image)(z[None])
    return (z - moved[0]) / float(schedule.phi[step])
