"""How inversion converges on a model and some photographs: measurements as one Parquet table, and figures of them."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fpcore.inversion import convergence as analysis
from fpcore.inversion.convergence import Columns
from fpcore.inversion.invert import Predict, invert
from fpcore.inversion.methods import method
from fpcore.inversion.noise_schedules import NoiseSchedule, schedule_at_levels_of
from fpcore.inversion.schedule import Schedule, TimestepSpacing
from fpcore.models.load import load_model
from fpcore.models.model import Model
from tasks.evaluation.convergence_figures import TABLE_OF, draw
from tasks.photos.decode import PhotoLimits, model_input
from tasks.photos.sources import list_photos
from tasks.shard.load import load
from tasks.store.objects import Store, open_store
from tasks.store.planned import PlannedPhoto
from tasks.text import plain

log = logging.getLogger(__name__)
TOLERANCE = 1e-3
EVERY_STEP: dict[str, Any] = {
    "tolerance": TOLERANCE, "norm": "state", "speculative_below": 0.0, "damping": 1.0, "max_iterations": 12,
}  # fmt: skip
GUIDANCE = (1.0, 2.0, 7.5)
NOISE_SCHEDULES: tuple[NoiseSchedule, ...] = ("linear", "scaled_linear", "cosine")
SPACINGS: tuple[TimestepSpacing, ...] = get_args(TimestepSpacing)
STARTS = {"previous": "z(t-1)", "last": "last direction", "extrapolated": "extrapolated"}
PATH_STEPS = (0, 1, 2, 5)
"""Steps whose paths to the common fixed point are drawn."""
SENSITIVITY_PHOTOS = 2


def analyze(
    source: str,
    output: str,
    *,
    pretrained_model_name_or_path: str = "builtin:haze",
    num_inference_steps: int = 50,
    photos: int = 8,
    seed: int = 0,
    prompt: str = "haze",
    on_progress: Callable[[str], None] = log.info,
) -> dict[str, Any]:
    """Measure convergence on the first ``photos`` photographs of ``source`` and write to ``output``.

    ``analysis.parquet``: one row per measurement; the column ``analysis`` says which (contraction, paths, curves,
    sensitivity) and with it which columns are filled. ``*.png`` and ``*.svg``: the figures. ``prompt`` is what guidance
    with w > 1 leads to; everything else is inverted without text. Each figure is written when its measurements are there, and
    ``on_progress`` is told in a line. ``source`` and ``output``: folders or object-store
    URLs. Returns counts and the objects written. Raises ValueError if no photograph can be read.
    """
    if photos < 1:
        raise ValueError(f"photos must be at least 1, not {photos}")
    model = load_model(pretrained_model_name_or_path)
    keys, pixels = read_pictures(source, output, photos, model.image_size)
    store, written = open_store(output), list[str]()

    def keep(name: str, table: str, columns: Columns) -> None:
        written.extend(put_figure(store, name, draw(name, columns)))
        on_progress(f"{table}: {output.rstrip('/')}/{name}.png")

    on_progress(f"{len(keys)} photographs, {num_inference_steps} steps: exact inversion")
    study = _Study(model, model.encode(pixels * 2 - 1), num_inference_steps, seed, prompt)
    tables: dict[str, Columns] = {}
    measures = {"curves": study.curves, "paths": study.paths, "contraction": study.contraction,
                "sensitivity": study.sensitivity}  # fmt: skip
    for table, measure in measures.items():
        on_progress(f"{table}: measuring")
        tables[table] = measure()
        for name in (name for name, of in TABLE_OF.items() if of == table):
            keep(name, table, tables[table])
    store.put("analysis.parquet", _parquet(tables, keys, model))
    rows = sum(len(table["image"]) for table in tables.values())
    return {"photos": len(keys), "rows": rows, "output": output, "written": ["analysis.parquet", *written]}


def put_figure(store: Store, name: str, figure: Figure) -> list[str]:
    """Write a figure as PNG and SVG; the names of the objects."""
    names = []
    for kind in ("png", "svg"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
        names.append(f"{name}.{kind}")
        store.put(names[-1], buffer.getvalue())
    return names


class _Study:
    """The measurements of one model on some latents (M, C, h, w)."""

    def __init__(self, model: Model, z0: Tensor, steps: int, seed: int, prompt: str) -> None:
        self.model, self.z0, self.steps, self.seed, self.prompt = model, z0, steps, seed, prompt
        self.schedule = Schedule.from_scheduler(model.scheduler, steps)
        self.predict = self._predict("", len(z0))
        precise = method("certified", tolerance=TOLERANCE / 10, norm="state", speculative_below=0.0)
        found = invert(self.predict, self.schedule, z0, precise, keep_trajectory=True)
        assert found.trajectory is not None
        self.trajectory = found.trajectory

    def _predict(self, prompt: str, count: int) -> Predict:
        condition = self.model.embed([prompt]).repeat(count)
        return lambda z, t, image: self.model.predict(z, t, condition.rows(image))

    def contraction(self) -> Columns:
        """Contraction rates of every step."""
        return analysis.contraction(self.predict, self.schedule, self.trajectory, seed=self.seed)

    def paths(self) -> Columns:
        """Several paths of the first photograph at a few steps."""
        each = [
            analysis.multi_start(self.predict, self.schedule, self.trajectory[0, step], step, seed=self.seed)
            for step in PATH_STEPS
            if step < len(self.schedule)
        ]
        return {name: np.concatenate([one[name] for one in each]) for name in each[0]}

    def curves(self) -> Columns:
        """Ten iterations of two paths on every step."""
        return analysis.loss_curves(self.predict, self.schedule, self.z0, seed=self.seed)

    def sensitivity(self) -> Columns:
        """What becomes of the photographs under other step counts, noise schedules, spacings, starts and guidance."""
        z0, tables = self.z0[:SENSITIVITY_PHOTOS], []
        for setting, value, schedule, predict, options in self._settings(len(z0)):
            chosen = method("certified", **EVERY_STEP | options)
            found = analysis.outcomes(predict, schedule, z0, chosen)
            labels = {"setting": setting, "value": value}
            tables.append({n: np.full(len(z0), text, dtype=object) for n, text in labels.items()} | found)
            tables[-1]["steps"] = np.full(len(z0), len(schedule))
        return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}

    def _settings(self, count: int) -> Iterator[tuple[str, str, Schedule, Predict, dict[str, Any]]]:
        """(what is varied, to which value, schedule, network, options of the method), all plain iterations."""
        scheduler, plain = self.model.scheduler, self._predict("", count)
        for steps in sorted({max(1, self.steps // 4), max(1, self.steps // 2), self.steps, 2 * self.steps}):
            if steps <= scheduler.config.num_train_timesteps:
                yield "steps", str(steps), Schedule.from_scheduler(scheduler, steps), plain, {}
        for levels in NOISE_SCHEDULES:
            yield "noise schedule", levels, schedule_at_levels_of(scheduler, levels, self.steps), plain, {}
        for spacing in SPACINGS:
            schedule = schedule_at_levels_of(scheduler, "trained", self.steps, spacing)
            yield "spacing", spacing, schedule, plain, {}
        for guess, label in STARTS.items():
            yield "start", label, self.schedule, plain, {"guess": guess}
        conditional = self._predict(self.prompt, count)
        for w in GUIDANCE:
            yield "guidance", f"w = {w:g}", self.schedule, analysis.with_guidance(conditional, plain, w), {}


def read_pictures(source: str, output: str, count: int, size: tuple[int, int]) -> tuple[list[str], Tensor]:
    """Keys and pixels (M, 3, h, w) in [0, 1] of the first readable photographs; the others are skipped with a warning."""
    keys, pixels = [], []
    for row, entry in enumerate(islice(list_photos(source, output=output), count)):
        loaded = load(PlannedPhoto(shard=0, row=row, **entry), PhotoLimits())
        if loaded.photo is None:
            log.warning("skipped %s: %s", plain(entry["key"]), loaded.failure and loaded.failure.message)
            continue
        keys.append(entry["key"])
        pixels.append(torch.from_numpy(model_input(loaded.photo, size)))
    if not pixels:
        raise ValueError(f"no photograph could be read from {source}: check the path and the files")
    return keys, torch.stack(pixels)


def _parquet(tables: dict[str, Columns], keys: list[str], model: Model) -> bytes:
    """All measurements as one table; columns that an analysis does not have are null."""
    parts = []
    for name, columns in tables.items():
        labels = {"analysis": [name] * len(columns["image"]), "photo": [keys[i] for i in columns["image"]]}
        parts.append(pa.table(labels | {key: pa.array(column.tolist()) for key, column in columns.items()}))
    table = pa.concat_tables(parts, promote_options="default")
    about = {"model": model.name, "model_digest": model.digest}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata({f"fixpoint.{k}": v for k, v in about.items()}), sink, compression="zstd"
    )
    return bytes(sink.getvalue())
