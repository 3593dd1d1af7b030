"""The measurements of docs/CONVERGENCE.md: certified bounds and path distances against true errors, photograph by photograph.

    python -m benchmarks.convergence --photos PHOTOS [PHOTOS …] --count 104 --save FOLDER
    python -m benchmarks.convergence --summary FOLDER

The first writes ``stops.parquet`` (every step of a certified inversion at RMS 2.2e-3: its bound, and its distance from a
reference fixed point) and ``paths.parquet`` (ten plain iterations of two paths at a few steps: intra, inter, bound and true
error); the second prints the tables of the document from them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.inversion import TARGET, read_photographs
from fpcore.inversion.convergence import path_errors, stop_errors
from fpcore.inversion.invert import invert
from fpcore.inversion.methods import method
from fpcore.inversion.noise_schedules import schedule_at_levels_of
from fpcore.models.load import load_model

STEPS = (0, 1, 2, 8, 48, 49)
CHUNK = 26
NOISE = 3.0
"""An error below that many times the reference's own residual is rounding, and not judged."""


def measure(folders: list[str], count: int, levels: str, steps: list[int], with_stops: bool, save: Path) -> None:
    """Chunk by chunk, so that what is done is kept."""
    model = load_model("builtin:haze")
    pixels = read_photographs(folders, count, model.image_size, seed=1)
    schedule = schedule_at_levels_of(model.scheduler, levels, 50)  # type: ignore[arg-type]
    save.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[pd.DataFrame]] = {"stops": [], "paths": []}
    for start in range(0, count, CHUNK):
        z0 = model.encode(pixels[start : start + CHUNK])
        condition = model.embed([""]).repeat(len(z0))

        def predict(z, t, image, condition=condition):  # type: ignore[no-untyped-def]
            return model.predict(z, t, condition.rows(image))

        every_step = method("certified", tolerance=TARGET, norm="state", speculative_below=0.0)
        run = invert(predict, schedule, z0, every_step, keep_trajectory=True)
        assert run.trajectory is not None
        found = {"paths": path_errors(predict, schedule, run.trajectory, steps=steps, precision=1e-6, seed=start)}
        if with_stops:
            found["stops"] = stop_errors(predict, schedule, run, precision=1e-6)
        for name, columns in found.items():
            table = pd.DataFrame(columns).assign(image=lambda t: t["image"] + start)  # noqa: B023
            tables[name].append(table)
            pd.concat(tables[name]).to_parquet(save / f"{name}.parquet")
        print(f"{min(start + CHUNK, count)} of {count} photographs", flush=True)


def summary(folder: Path) -> None:
    """Every figure of the document that rests on these measurements."""
    stops, paths = pd.read_parquet(folder / "stops.parquet"), pd.read_parquet(folder / "paths.parquet")
    photos = stops["image"].nunique()
    print(f"{photos} photographs, {len(stops)} steps, {stops['iteration'].sum() / photos:.1f} evaluations a photograph")
    print("verdicts:", stops["status"].value_counts().to_dict())
    judged = stops[np.isfinite(stops["bound"]) & (stops["error"] > NOISE * stops["floor"])]
    ratio = judged["error"] / judged["bound"]
    print(f"bound judged on {len(judged)} steps: broken on {(ratio > 1).sum()} ({100 * (ratio > 1).mean():.2f} %)")
    print(
        "error / bound, quantiles 5, 50, 95, 99, 100 %:", ratio.quantile([0.05, 0.5, 0.95, 0.99, 1]).round(3).tolist()
    )
    print(f"stopped as converged with a true error above {TARGET}: "
          f"{((stops['status'] == 'converged') & (stops['error'] > TARGET)).sum()}")  # fmt: skip
    hard = stops[stops["status"] != "converged"]
    print("steps that did not converge, by step:", hard["step"].value_counts().to_dict())
    print("error of those that did not, max:", hard["error"].max(), "photographs:", hard["image"].nunique())
    broken = judged[ratio > 1]
    print("bound broken by step:", broken["step"].value_counts().head(8).to_dict())
    print(
        stops.groupby(pd.cut(stops["step"], [-1, 0, 1, 2, 4, 9, 39, 47, 48, 49]))["iteration"]
        .mean()
        .round(2)
        .to_string()
    )

    print("\nstep, iteration at which the median photograph passes, and the worst:")
    for name, column in (("intra", "intra"), ("inter", "inter"), ("bound", "bound"), ("true error", "error")):
        for step, part in paths.groupby("step"):
            first = (
                part[part[column] < TARGET]
                .groupby("image")["iteration"]
                .min()
                .reindex(part["image"].unique(), fill_value=11)
            )
            print(f"{name:10s} step {step:2d}: {first.median():.0f}, worst {first.max():.0f} (11: not in ten)")
    for step, part in paths.groupby("step"):
        for name in ("intra", "inter", "bound"):
            met = part[part[name] < TARGET].sort_values("iteration").groupby("image").first()
            wrong = (met["error"] > TARGET).mean() if len(met) else np.nan
            print(f"step {step:2d}, {name:5s} first below {TARGET}: {len(met)} photographs, true error above it in "
                  f"{100 * wrong:.0f} %, median error / tolerance {met['error'].median() / TARGET:.2f}")  # fmt: skip


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="*", default=[])
    parser.add_argument("--count", type=int, default=104)
    parser.add_argument("--schedule", default="trained")
    parser.add_argument("--at", nargs="*", type=int, default=STEPS, help="steps whose paths are followed")
    parser.add_argument("--only-paths", action="store_true", help="leave stops.parquet out")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--summary", type=Path)
    chosen = parser.parse_args()
    if chosen.save:
        measure(chosen.photos, chosen.count, chosen.schedule, chosen.at, not chosen.only_paths, chosen.save)
    if chosen.summary:
        summary(chosen.summary)


if __name__ == "__main__":
    main()
