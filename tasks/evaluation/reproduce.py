"""The source paper's convergence figures (Fig. 1, 2 and 6), each measured and drawn by itself.

Without photographs of your own they are those that scikit-image and scikit-learn ship.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image

from fpcore.builtin.demo_photographs import clear_photographs
from fpcore.inversion import convergence as analysis
from fpcore.inversion.convergence import Columns
from fpcore.inversion.invert import Predict, invert
from fpcore.inversion.methods import method
from fpcore.inversion.schedule import Schedule, TimestepSpacing
from fpcore.models.load import load_model
from tasks.evaluation.convergence import PATH_STEPS, put_figure, read_pictures
from tasks.evaluation.convergence_figures import FIRST_STEPS, draw
from tasks.store.objects import open_store
from tasks.text import csv

PaperFigure = Literal["fig1", "fig2", "fig6"]
FIGURES: tuple[PaperFigure, ...] = get_args(PaperFigure)
DRAWN = {"fig1": "curves-first-steps", "fig2": "paths", "fig6": "curves-all-steps"}
SPACING: TimestepSpacing = "trailing"
"""Steps uniform in t as in the paper, and up to the model's last timestep."""


def reproduce_figure(
    what: PaperFigure,
    output: str,
    *,
    source: str | None = None,
    pretrained_model_name_or_path: str = "builtin:haze",
    num_inference_steps: int = 50,
    photos: int = 4,
    seed: int = 0,
    on_progress: Callable[[str], None] = print,
) -> list[str]:
    """Measure and draw one figure of the paper on ``photos`` photographs; the names of the objects written.

    ``fig1``: intra- and inter-path distance against the iteration on the first eight steps; ``fig6``: on all steps;
    ``fig2``: perturbed paths on their way to the common fixed point. Beside each the numbers, as ``NAME.csv``.
    Raises ValueError if no photograph can be read, or for a model or number of steps that does not fit.
    """
    if what not in FIGURES:
        raise ValueError(f"{what!r} is none of {', '.join(FIGURES)}")
    if photos < 1:
        raise ValueError(f"photos must be at least 1, not {photos}")
    model = load_model(pretrained_model_name_or_path)
    with TemporaryDirectory() as free:
        keys, pixels = read_pictures(source or _free_photographs(Path(free)), output, photos, model.image_size)
    z0 = model.latents_of(pixels)
    schedule = _schedule(model.scheduler_for(z0), num_inference_steps, flow=model.is_flow)
    condition = model.embed([""]).repeat(len(z0))
    on_progress(f"{what}: {len(keys)} photographs, {len(schedule)} steps, {model.name}")
    if what == "fig2":
        columns = _paths(model.under(condition), schedule, z0, seed)
    else:
        walked = schedule.take(torch.arange(min(FIRST_STEPS, len(schedule)))) if what == "fig1" else schedule
        columns = analysis.loss_curves(model.under(condition), walked, z0, batch_size=len(z0), seed=seed)
    store = open_store(output)
    written = put_figure(store, what, draw(DRAWN[what], columns))
    store.put(f"{what}.csv", _csv(columns))
    on_progress(f"{what}: {output.rstrip('/')}/{what}.png")
    return [*written, f"{what}.csv"]


def _schedule(scheduler: object, steps: int, *, flow: bool) -> Schedule:
    return Schedule.from_scheduler(scheduler, steps) if flow else Schedule.from_scheduler(scheduler, steps, SPACING)


def _paths(predict: Predict, schedule: Schedule, z0: torch.Tensor, seed: int) -> Columns:
    """Eight paths of the first photograph at a few early steps, 21 iterations."""
    last = min(max(PATH_STEPS), len(schedule) - 1)
    precise = method("certified", tolerance=1e-4, norm="state", speculative_below=0.0)
    early = schedule.take(torch.arange(last + 1))
    trajectory = invert(predict, early, z0[:1], precise, keep_trajectory=True).trajectory
    assert trajectory is not None
    each = [
        analysis.multi_start(predict, schedule, trajectory[0, step], step, seed=seed)
        for step in PATH_STEPS
        if step <= last
    ]
    return {name: np.concatenate([one[name] for one in each]) for name in each[0]}


def _free_photographs(folder: Path) -> str:
    for name, pixels in clear_photographs():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return str(folder)


def _csv(columns: Columns) -> bytes:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return (
        "\n".join([",".join(columns), *(",".join(str(csv(value)) for value in row) for row in rows)]).encode() + b"\n"
    )
