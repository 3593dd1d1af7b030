"""How fixed-point inversion converges: contraction, paths, loss curves, true errors. Tensors in, tidy columns out.

Every function returns columns of equal length (name → array), one row per measurement, ready for a table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fpcore.inversion.criteria import Status, rms
from fpcore.inversion.invert import Inversion, Predict, invert
from fpcore.inversion.methods import Method, method
from fpcore.inversion.records import COLUMNS, StepRecords
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule, per_row

Columns = dict[str, NDArray[Any]]
Map = Callable[[Tensor], Tensor]
SMALL = 1e-2
"""RMS distance of a pair of points that counts as near; 1 is that of the paper's second path."""
POWER_ITERATIONS = 4


def fixed_point_map(predict: Predict, schedule: Schedule, step: int, base: Tensor, images: Tensor) -> Map:
    """f of ``step`` (paper Eq. 3) for rows z_{t-1} = ``base`` (B, C, h, w) of ``images`` (B,)."""
    steps = torch.full((len(base),), step, device=base.device)
    t = schedule.timesteps[step].to(base.device).expand(len(base))

    @torch.no_grad()
    def f(z: Tensor) -> Tensor:
        d = schedule.direction(predict(z, t, images).to(z.dtype), z, steps)
        return float(schedule.phi[step]) * base + float(schedule.psi[step]) * d

    return f


def one_step(schedule: Schedule, step: int) -> Schedule:
    """The schedule that has only this step."""
    only = slice(step, step + 1)
    return replace(
        schedule, timesteps=schedule.timesteps[only], signal_prev=schedule.signal_prev[only],
        noise_prev=schedule.noise_prev[only], signal=schedule.signal[only], noise=schedule.noise[only],
    )  # fmt: skip


def loss_curves(
    predict: Predict, schedule: Schedule, z0: Tensor, *, iterations: int = 10, batch_size: int = 8, seed: int = 0
) -> Columns:
    """Intra- and inter-path distance against iteration (the paper's Fig. 1 and 6): two paths, a fixed count.

    Columns: image, step, timestep, iteration, intra, inter, bound, rate.
    """
    two_paths = method("fixed-point", iterations=iterations, paths=2)
    seeds = [seed + i for i in range(len(z0))]
    return step_columns(invert(predict, schedule, z0, two_paths, batch_size=batch_size, seeds=seeds).records, schedule)


def step_columns(records: StepRecords, schedule: Schedule) -> Columns:
    """An inversion's records with their timestep; verdicts in words."""
    columns: Columns = {name: getattr(records, name) for name in COLUMNS}
    columns["status"] = np.array([Status(code).label for code in records.status], dtype=object)
    return columns | {"timestep": schedule.timesteps.cpu().numpy()[records.step]}


def contraction(
    predict: Predict, schedule: Schedule, trajectory: Tensor, *, steps: Iterable[int] | None = None, seed: int = 0
) -> Columns:
    """‖f(z) − f(z')‖ / ‖z − z'‖ per step, beside the ideal denoiser's largest value r_t = ψ_t/√(1−ᾱ_t).

    ``trajectory`` (M, N + 1, C, h, w) from ``invert(keep_trajectory=True)``; z is its state after the step, z' lies at
    RMS distance ``SMALL`` or 1 in a random direction, or at ``SMALL`` in the direction that f shrinks least, found by
    ``POWER_ITERATIONS``. Columns: image, step, timestep, direction, distance, ratio, rate.
    """
    count, rows = len(trajectory), []
    generator = torch.Generator().manual_seed(seed)
    images = torch.arange(count, device=trajectory.device)
    for step in range(len(schedule)) if steps is None else steps:
        f = fixed_point_map(predict, schedule, step, trajectory[:, step], images)
        z = trajectory[:, step + 1]
        fz = f(z)

        random = torch.randn(z.shape, generator=generator).to(z)
        direction, ratio = _stretch(f, z, fz, random, SMALL)
        found = [("random", SMALL, ratio), ("random", 1.0, _stretch(f, z, fz, random, 1.0)[1])]
        for _ in range(POWER_ITERATIONS):
            direction, ratio = _stretch(f, z, fz, direction, SMALL)
        found.append(("least contracted", SMALL, ratio))
        known = schedule.rate[step]
        for name, distance, ratio in found:
            rows.append(_rows(step, schedule, images, direction=name, distance=distance, ratio=ratio, rate=known))
    return _joined(rows)


def _stretch(f: Map, z: Tensor, fz: Tensor, direction: Tensor, distance: float) -> tuple[Tensor, Tensor]:
    """f(z') − f(z) for z' at RMS ``distance`` along ``direction``, and its length over the distance (B,)."""
    apart = distance * direction / per_row(rms(direction), direction)
    moved = f(z + apart) - fz
    return moved, rms(moved) / rms(apart)


def multi_start(
    predict: Predict, schedule: Schedule, base: Tensor, step: int, *,
    paths: int = 8, iterations: int = 21, image: int = 0, seed: int = 0,
) -> Columns:  # fmt: skip
    """Several perturbed paths of one step on their way to the common fixed point (the paper's Fig. 2).

    ``base`` (C, h, w) is z_{t-1}; path 0 starts there, the others at z_{t-1} + n, n ~ N(0, I). ``x``, ``y``: coordinates
    along the two directions in which the paths vary most, in units of RMS; ``distance``: RMS to path 0's end.
    Columns: image, step, timestep, path, iteration (0 is the start), x, y, distance.
    """
    noise = torch.randn((paths - 1, *base.shape), generator=torch.Generator().manual_seed(seed)).to(base)
    z = torch.cat([base[None], base + noise])
    same = torch.full((paths,), image, device=base.device)
    f = fixed_point_map(predict, schedule, step, base.expand_as(z), same)
    walked = [z]
    for _ in range(iterations):
        walked.append(f(walked[-1]))
    states = (
        torch.stack(walked, 1).flatten(2).cpu().double()
    )  # (paths, iterations + 1, n); not every device has float64
    apart = states - states[0, -1]
    scale = apart.shape[-1] ** 0.5
    _, _, axes = torch.linalg.svd(apart.flatten(0, 1), full_matrices=False)
    xy = (apart @ axes[:2].T / scale).numpy()
    path, iteration = np.indices(apart.shape[:2]).reshape(2, -1)
    size = len(path)
    return {
        "image": np.full(size, image),
        "step": np.full(size, step),
        "timestep": np.full(size, int(schedule.timesteps[step])),
        "path": path,
        "iteration": iteration,
        "x": xy[..., 0].ravel(),
        "y": xy[..., 1].ravel(),
        "distance": (apart.norm(dim=2) / scale).numpy().ravel(),
    }


def path_errors(
    predict: Predict, schedule: Schedule, trajectory: Tensor, *,
    steps: Iterable[int], iterations: int = 10, precision: float = 1e-7, batch_size: int = 8, seed: int = 0,
) -> Columns:  # fmt: skip
    """What intra- and inter-path distances and the certified bound say of f(z), beside its true error RMS(f(z) − z*).

    Every step starts anew at its z_{t-1} of ``trajectory`` (M, N + 1, C, h, w) with two plain paths; z* is found to
    a residual of ``precision`` if the network's rounding allows; ``floor`` is what was reached, less says nothing.
    Columns: image, step, timestep, iteration, intra, inter, bound, rate, error, floor.
    """
    count, tables = len(trajectory), []
    images, seeds = torch.arange(count, device=trajectory.device), [seed + i for i in range(count)]
    plain = method("fixed-point", iterations=iterations, paths=2)
    for step in steps:
        base, alone = trajectory[:, step], one_step(schedule, step)
        records = invert(predict, alone, base, plain, batch_size=batch_size, seeds=seeds).records
        f = fixed_point_map(predict, schedule, step, base, images)
        path = [f(base)]
        for _ in range(1, iterations):
            path.append(f(path[-1]))
        root, floor = reference(predict, schedule, step, base, path[-1], precision)
        error = torch.stack([rms(z - root) for z in path], 1)
        columns = step_columns(records, alone) | {
            "step": np.full(len(records), step),
            "error": error.flatten().cpu().numpy(),
            "floor": floor.repeat_interleave(iterations).cpu().numpy(),
        }
        tables.append({name: column for name, column in columns.items() if name != "status"})
    return _joined(tables)


def stop_errors(predict: Predict, schedule: Schedule, run: Inversion, *, precision: float = 1e-7) -> Columns:
    """The true error of each step at which an inversion stopped, beside the bound it stopped with.

    ``run`` kept its trajectory; steps it took speculatively did not stop and are left out. Columns: image, step, timestep,
    iteration (evaluations spent), intra, bound, rate, status, error, floor (see ``path_errors``).
    Raises ValueError without a trajectory.
    """
    if run.trajectory is None:
        raise ValueError("stop_errors needs an inversion with keep_trajectory=True")
    columns = step_columns(run.records, schedule)
    last = run.records.status != Status.RUNNING
    columns = {name: column[last] for name, column in columns.items() if name != "inter"}
    error, floor = np.full((2, last.sum()), np.nan)
    for step in np.unique(columns["step"]):
        at = columns["step"] == step
        chosen = run.trajectory[torch.from_numpy(columns["image"][at]).to(run.trajectory.device)]
        base, z = chosen[:, step], chosen[:, step + 1]
        root, reached = reference(predict, schedule, int(step), base, z, precision)
        error[at], floor[at] = rms(z - root).cpu().numpy(), reached.cpu().numpy()
    return columns | {"error": error, "floor": floor}


def reference(
    predict: Predict, schedule: Schedule, step: int, base: Tensor, start: Tensor, precision: float, most: int = 60
) -> tuple[Tensor, Tensor]:
    """z* (B, C, h, w) of a step by plain iteration from ``start``, and the residual (B,) that was reached.

    Ends at a residual of ``precision``, or when no row improves by a tenth in five iterations.
    """
    f = fixed_point_map(predict, schedule, step, base, torch.arange(len(base), device=base.device))
    z, best, root, idle = start, torch.full((len(base),), torch.inf, device=base.device), start, 0
    for _ in range(most):
        image = f(z)
        residual = rms(image - z).to(best)
        better = residual < best
        idle = 0 if bool((residual < 0.9 * best).any()) else idle + 1
        root = torch.where(better.view(-1, 1, 1, 1), image, root)
        best, z = torch.minimum(best, residual), image
        if idle == 5 or float(best.max()) < precision:
            break
    return root, best


def final_residuals(predict: Predict, schedule: Schedule, trajectory: Tensor) -> Tensor:
    """RMS(f(z) − z) (M, N) of each state that an inversion left behind, measured anew: one evaluation a step."""
    images = torch.arange(len(trajectory), device=trajectory.device)
    columns = []
    for step in range(len(schedule)):
        f = fixed_point_map(predict, schedule, step, trajectory[:, step], images)
        columns.append(rms(f(trajectory[:, step + 1]) - trajectory[:, step + 1]))
    return torch.stack(columns, 1)


def outcomes(predict: Predict, schedule: Schedule, z0: Tensor, chosen: Method, *, batch_size: int = 8) -> Columns:
    """What became of each image.

    Columns: image, status, nfe, hardest (iterations of its costliest step), round_trip (RMS of sampling back minus z0),
    and converged, uncertified, stagnated, oscillating, diverging, max_iterations: how many of its steps ended so.
    """
    run = invert(predict, schedule, z0, chosen, batch_size=batch_size)
    back = sample(predict, schedule, run.latents, batch_size=batch_size)
    ended = [status_counts(run.records.of_image(i)) for i in range(len(z0))]
    hardest = [run.records.of_image(i).iteration.max(initial=0) for i in range(len(z0))]
    columns: Columns = {
        "image": np.arange(len(z0)),
        "status": np.array([status.label for status in run.status], dtype=object),
        "nfe": np.array(run.nfe),
        "hardest": np.array(hardest),
        "round_trip": rms(back - z0).double().cpu().numpy(),
    }
    verdicts = (
        Status.CONVERGED, Status.UNCERTIFIED, Status.STAGNATED, Status.OSCILLATING, Status.DIVERGING, Status.MAX_ITERATIONS,
    )  # fmt: skip
    return columns | {v.label.replace("-", "_"): np.array([counted[v] for counted in ended]) for v in verdicts}


def status_counts(records: StepRecords) -> Counter[Status]:
    """How many steps ended with each verdict."""
    return Counter(Status(code) for code in records.status if code != Status.RUNNING)


def with_guidance(conditional: Predict, unconditional: Predict, scale: float) -> Predict:
    """Classifier-free guidance inside f: u + w (c − u). At w = 1 one network call, else two."""
    if scale == 1:
        return conditional

    def guided(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        return torch.lerp(unconditional(z, t, image), conditional(z, t, image), scale)

    return guided


def _rows(step: int, schedule: Schedule, images: Tensor, **values: Any) -> Columns:
    """One row an image; scalars are repeated."""
    columns: Columns = {"image": images.cpu().numpy()}
    for name, value in {"step": step, "timestep": int(schedule.timesteps[step]), **values}.items():
        if isinstance(value, Tensor):
            value = value.double().cpu().numpy()
        columns[name] = np.broadcast_to(np.asarray(value), len(images))
    return columns


def _joined(tables: list[Columns]) -> Columns:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]} if tables else {}
