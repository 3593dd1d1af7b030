"""Restoration against its truth: photographs damaged on purpose, plain ways to mend them, and measures of both."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from prefect import task
from prefect.cache_policies import NO_CACHE
from torch import Tensor

from fpcore.evaluation.colour_difference import ciede2000
from fpcore.evaluation.metrics import colourfulness, psnr, ssim
from fpcore.evaluation.perceptual import Lpips
from fpcore.restoration.chroma import likely_colours
from fpcore.restoration.degradation import Average, Grey, Hole, luma
from fpcore.restoration.full_resolution import contradiction
from fpcore.restoration.random_hole import random_hole
from tasks.photos.decode import decode_photo, model_input
from tasks.photos.sources import list_photos
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store, read_uri

Bytes = npt.NDArray[np.uint8]
MULTIPLE = 4
"""Sides of the photographs are multiples of it, so that all of each can be averaged by 2 and by 4."""
OURS = "fixed points"


class Case(NamedTuple):
    """A task, and for super-resolution how many times wider and higher."""

    task: str
    scale: int = 1

    @property
    def name(self) -> str:
        """Also that of its folder."""
        return self.task if self.scale == 1 else f"{self.task}-x{self.scale}"


CASES = (Case("colorize"), Case("inpaint"), Case("super-resolution", 2), Case("super-resolution", 4))


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="damage {clear}")
def damage(clear: str, output: str, cases: Iterable[Case], side: int, most: int) -> None:
    """Write to ``output``/truth at most ``most`` photographs of ``clear``, evenly chosen, the longest side ``side`` pixels.

    For each case write their damaged copies to ``output``/CASE/damaged, holes to CASE/masks, and what plain ways make of
    them to CASE/BASELINE. The same photographs are damaged alike every time.
    """
    entries = list(list_photos(clear))
    chosen = np.unique(np.linspace(0, len(entries) - 1, min(most, len(entries))).round().astype(int))
    for number, index in enumerate(chosen):
        entry = entries[index]
        truth = _small(read_uri(entry["uri"]), side)
        name = f"{number:04d}-{Path(entry['key']).stem}.png"
        _write(Path(output) / "truth" / name, truth)
        hole = random_hole(truth.shape[0], truth.shape[1], np.random.default_rng(number))
        for case in cases:
            for kind, picture in _damaged(case, truth, hole).items():
                _write(Path(output) / case.name / kind / name, picture)


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="measure {case.name}")
def measure(output: str, case: Case, lpips: str | None) -> list[dict[str, Any]]:
    """Means over the photographs for each baseline and for the committed run in ``output``/CASE/run.

    Inside the hole alone for ``inpaint``, but for LPIPS. ``lpips``: weights as ``Lpips`` takes them; None: not measured.
    """
    folder = Path(output) / case.name
    judge = Lpips(lpips) if lpips else None
    baselines = sorted(p.name for p in folder.iterdir() if p.name not in ("damaged", "masks", "run"))
    results = {name: {p.name: p for p in (folder / name).iterdir()} for name in baselines}
    committed = _committed(folder / "run")
    results[OURS] = {key: folder / "run" / row["output_path"] for key, row in committed.items() if row["output_path"]}
    table = []
    for method, pictures in results.items():
        found = [_measures(Path(output), case, key, path, judge) for key, path in sorted(pictures.items())]
        ours = committed.values() if method == OURS else []
        table.append({"task": case.name, "method": method, **_summary(found), **_cost(ours)})
    return table


def results_of(output: str, case: Case) -> dict[str, list[Path]]:
    """For each photograph that the run restored: its picture damaged, by each baseline, restored, and the truth."""
    folder = Path(output) / case.name
    kinds = sorted(p.name for p in folder.iterdir() if p.name not in ("damaged", "masks", "run"))
    return {
        key: [
            folder / "damaged" / key,
            *(folder / kind / key for kind in kinds),
            folder / "run" / row["output_path"],
            Path(output) / "truth" / key,
        ]
        for key, row in sorted(_committed(folder / "run").items())
        if row["output_path"]
    }


# Damage, and plain ways to mend it


def _damaged(case: Case, truth: Bytes, hole: npt.NDArray[np.bool_]) -> dict[str, Bytes]:
    """The damaged photograph, its mask where it has one, and the baselines, by the names of their folders."""
    match case.task:
        case "colorize":
            colourless = Grey.of(_floats(truth))
            grey = _integers(colourless.grey())
            likely = colourless.in_gamut(likely_colours(luma(_floats(grey))))
            return {"damaged": grey, "grey": grey, "likely colours": _integers(likely)}
        case "inpaint":
            damaged = np.where(hole[..., None], np.uint8(127), truth)
            known = Hole(_floats(damaged), torch.from_numpy(hole)[None, None])
            mended = {"damaged": damaged, "masks": hole * np.uint8(255), "smooth fill": _integers(known.start())}
            return mended | _biharmonic(damaged, hole)
        case _:
            small = _integers(F.avg_pool2d(_floats(truth), case.scale))
            size = (truth.shape[1], truth.shape[0])
            bicubic = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
            corrected = Average(_floats(small), case.scale).in_gamut(_floats(bicubic))
            return {"damaged": small, "bicubic": bicubic, "bicubic, averages kept": _integers(corrected)}


def _biharmonic(damaged: Bytes, hole: npt.NDArray[np.bool_]) -> dict[str, Bytes]:
    """Biharmonic filling, where scikit-image is installed."""
    if importlib.util.find_spec("skimage") is None:
        return {}
    from skimage.restoration import inpaint_biharmonic

    filled = inpaint_biharmonic(damaged / 255, hole, channel_axis=-1, split_into_regions=True)
    return {"biharmonic": np.rint(np.clip(filled, 0, 1) * 255).astype(np.uint8)}


# Measures


def _measures(output: Path, case: Case, key: str, path: Path, judge: Lpips | None) -> dict[str, float]:
    pixels, truth = _read(path), _read(output / "truth" / key)
    made, true = _floats(pixels), _floats(truth)
    hole = None
    if case.task == "inpaint":
        hole = np.asarray(Image.open(output / case.name / "masks" / key)) > 0
    where = None if hole is None else torch.from_numpy(hole)[None, None]
    damaged = _read(output / case.name / "damaged" / key)
    found = {
        "psnr": float(psnr(made, true, where)[0]),
        "ssim": float(ssim(made, true, where)[0]),
        "ciede2000": ciede2000(*(_inside(picture, where) for picture in (made, true))),
        "consistency_error": contradiction(damaged, pixels, hole, case.scale if case.scale > 1 else None),
    }
    if case.task == "colorize":
        found |= {"colourfulness": float(colourfulness(made)[0]), "true_colourfulness": float(colourfulness(true)[0])}
    return found if judge is None else found | {"lpips": float(judge(made * 2 - 1, true * 2 - 1)[0])}


def _inside(picture: Tensor, where: Tensor | None) -> Tensor:
    """(3, H, W), or (3, 1, N) of the N pixels that count."""
    return picture[0] if where is None else picture[0][:, where[0, 0]][:, None]


def _summary(found: list[dict[str, float]]) -> dict[str, Any]:
    """Means over photographs, and the worst contradiction."""

    def mean(name: str) -> float | None:
        values = [row[name] for row in found if name in row]
        return float(np.mean(values)) if values else None

    names = ("psnr", "ssim", "lpips", "ciede2000", "colourfulness", "true_colourfulness")
    worst = max((row["consistency_error"] for row in found), default=None)
    return {"photos": len(found), **{name: mean(name) for name in names}, "worst_consistency_error": worst}


def _cost(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the run's own rows say: failures, the share of converged steps, network evaluations; None for a baseline."""
    rows = list(rows)
    good = [row for row in rows if row["output_path"]]
    if not rows:
        return {"failed": None, "steps_converged": None, "nfe": None}
    shares = [share for row in good if (share := dict(row["metrics"]).get("steps_converged")) is not None]
    return {
        "failed": len(rows) - len(good),
        "steps_converged": float(np.mean(shares)) if shares else None,
        "nfe": float(np.mean([row["nfe"] for row in good])) if good else None,
    }


# Files


def _committed(run: Path) -> dict[str, dict[str, Any]]:
    """The rows of a run by key."""
    ledger, columns = Ledger(open_store(str(run))), ["key", "output_path", "metrics", "nfe"]
    shards = sorted(ledger.committed())
    return {row["key"]: row for shard in shards for row in ledger.read_shard(*shard, columns).to_pylist()}


def _small(data: bytes, side: int) -> Bytes:
    """A photograph's pixels, its longest side at most ``side``, both multiples of ``MULTIPLE``."""
    photo = decode_photo(data)
    ratio = min(1.0, side / max(photo.size))
    height, width = (max(MULTIPLE, int(full * ratio) // MULTIPLE * MULTIPLE) for full in photo.size)
    return _integers(torch.from_numpy(model_input(photo, (height, width)))[None])


def _read(path: Path) -> Bytes:
    return np.asarray(Image.open(path).convert("RGB"))


def _write(path: Path, pixels: Bytes) -> None:
    """As PNG, unless the file says that already: a run that goes on finds its photographs as they were."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != data.getvalue():
        path.write_bytes(data.getvalue())


def _floats(pixels: Bytes) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]


def _integers(picture: Tensor) -> Bytes:
    return (picture[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
