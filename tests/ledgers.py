"""Builds a small ledger like one a dehazing run leaves: plausible residuals, generated pictures, a few bad photos."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from tasks.store.parquet import encode
from tasks.store.schema import SCHEMA_VERSION, STAGES, shard_schema

VERSIONS = {"fixpoint": "0.1.0", "torch": "2.13.0", "python": "3.11"}
MODEL_DIGEST = "5e" * 32


@dataclass(frozen=True)
class Recipe:
    """What the ledger should look like."""

    photos: int = 24
    photos_per_shard: int = 8
    inference_steps: int = 12
    method: str = "certified"
    speed: float = 1.0
    """Divides the contraction rates: larger converges in fewer iterations."""
    inter: bool = False
    truth: bool = True
    """Whether psnr_input and psnr_output are known."""
    failures: bool = True
    size: tuple[int, int] = (480, 320)
    seed: int = 0


def write_ledger(output: Path, source: Path, recipe: Recipe | None = None) -> None:
    """Write run.json, shards, result pictures under ``output``, and the photos under ``source``."""
    recipe = recipe or Recipe()
    configuration = configuration_of(recipe)
    output.mkdir(parents=True, exist_ok=True)
    record = {"configuration": configuration, "versions": VERSIONS, "model_digest": MODEL_DIGEST}
    (output / "run.json").write_text(json.dumps(record))
    for shard in range(-(-recipe.photos // recipe.photos_per_shard)):
        add_shard(output, source, recipe, shard)


def add_shard(output: Path, source: Path, recipe: Recipe, shard: int) -> Path:
    """Write one shard of the ledger; its photos follow those of the shards before."""
    first = shard * recipe.photos_per_shard
    rows = [
        row_of(output, source, recipe, shard, number)
        for number in range(first, min(recipe.photos, first + recipe.photos_per_shard))
    ]
    footer = {
        "schema_version": SCHEMA_VERSION,
        "attempt_id": f"{recipe.seed:08x}{shard:08x}",
        "configuration": configuration_of(recipe),
        "versions": VERSIONS,
        "model_digest": MODEL_DIGEST,
        "started_at": f"2026-11-20T10:{shard % 60:02d}:00+00:00",
        "finished_at": f"2026-11-20T10:{shard % 60:02d}:40+00:00",
        "device": "cpu",
        "method": recipe.method,
        "num_inference_steps": recipe.inference_steps,
        "alphas": [round(float(alpha), 6) for alpha in alphas_of(recipe.inference_steps)],
    }
    table = pa.Table.from_pylist(rows, schema=shard_schema((4, 8, 8)))
    path = output / "shards" / f"000001-{shard:05d}.parquet"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode(table, footer))
    return path


def configuration_of(recipe: Recipe) -> dict[str, Any]:
    return {
        "operation": "dehaze",
        "dehaze_variant": "words-by-place",
        "method": recipe.method,
        "num_inference_steps": recipe.inference_steps,
        "prompt": "haze",
        "target_prompt": "",
        "seed": recipe.seed,
    }


def alphas_of(steps: int) -> np.ndarray:
    """A cosine schedule's cumulative alphas, from nearly 1 to nearly 0."""
    return np.cos(np.linspace(0.15, 0.92, steps + 1) * np.pi / 2) ** 2


def row_of(output: Path, source: Path, recipe: Recipe, shard: int, number: int) -> dict[str, Any]:
    """A row of the ledger; photo 5 of every 11 is unreadable, some end weakened or without converging."""
    generator = np.random.default_rng([recipe.seed, number])
    key = f"day {number % 3}/photo & {number:03d}.jpg"
    base = {"plan": 1, "shard": shard, "row": number % recipe.photos_per_shard, "key": key, "seed": 9 + number}
    base |= {
        "run_id": "20261120T100000Z-0009",
        "source_uri": (source / key).as_uri(),
        "prompt": "haze",
        "target_prompt": "",
        "batch_size": 8,
    }
    if recipe.failures and number % 11 == 5:
        code, why = BAD[number % 2]
        return base | {"status": "failed", "error_code": code, "error_message": why, "nfe": 0, "nfe_inversion": 0}
    hazy, clear, haze = scene(generator, recipe.size)
    data = save(source / key, hazy)
    result = save(output / "images" / key, clear)
    steps, status = steps_of(generator, recipe)
    nfe = sum(2 if step["inter"] is not None else 1 for step in steps)
    gain = float(generator.normal(6, 2.5))
    return base | {
        "image_id": hashlib.sha256(data).hexdigest(),
        "source_size": len(data),
        "width": recipe.size[0],
        "height": recipe.size[1],
        "status": "ok",
        "verdict": "collapsed" if number % 13 == 7 else "gently" if number % 13 == 3 else "cleared",
        "strength": 0.5 if number % 13 == 3 else 1.0,
        "latent": generator.normal(size=256).astype(np.float16).tolist(),
        "latent_shape": [4, 8, 8],
        "output": {"bytes": png(clear.resize((32, 32))), "path": None},
        "haze_map": {"bytes": png(haze.resize((32, 32))), "path": None},
        "output_path": f"images/{key}",
        "output_sha256": hashlib.sha256(result).hexdigest(),
        "inversion_status": status,
        "steps": steps,
        "nfe": nfe + recipe.inference_steps,
        "nfe_inversion": nfe,
        "paths": paths_of(recipe) if number == 0 else None,
        "metrics": list(measures(generator, gain, recipe.truth).items()),
        "timings": {stage: float(generator.gamma(4, scale)) for stage, scale in zip(STAGES, SECONDS, strict=True)},
    }


BAD = (
    ("truncated", "The file ends early: copy it again."),
    ("too-large", "Over 200 megapixels: raise max_pixels."),
)
SECONDS = (0.004, 0.002, 0.2, 0.08, 0.002, 0.03, 0.01)


def measures(generator: np.random.Generator, gain: float, truth: bool) -> dict[str, float]:
    before = float(generator.normal(16, 2))
    known = {"psnr_input": before, "psnr_output": before + gain} if truth else {}
    dark = float(generator.uniform(0.3, 0.7))
    return known | {"dark_channel_before": dark, "dark_channel_after": dark * float(generator.uniform(0.3, 0.8))}


def steps_of(generator: np.random.Generator, recipe: Recipe) -> tuple[list[dict[str, Any]], str]:
    """Geometric decay at the schedule's rate r_t until the bound is under 1e-3, ten iterations at most."""
    sigma = np.sqrt((1 - alphas_of(recipe.inference_steps)) / alphas_of(recipe.inference_steps))
    hard = 1.25 if generator.uniform() < 0.1 else 1.0
    entries: list[dict[str, Any]] = []
    status = "converged"
    for step in range(recipe.inference_steps):
        rate = hard * min(0.5, 1 - sigma[step] / sigma[step + 1]) / recipe.speed
        bound, intra = np.inf, 0.4 * float(generator.lognormal(0, 0.3)) / recipe.speed
        for iteration in range(1, 11):
            intra *= rate * float(generator.lognormal(0, 0.08))
            bound = rate / (1 - rate) * intra
            inter = min(1.0, 1.4 * rate**iteration) if recipe.inter else None
            entries.append(
                {"step": step, "timestep": 1 + step * 999 // recipe.inference_steps, "iteration": iteration}
                | {"intra": intra, "inter": inter, "bound": bound, "rate": rate}
            )
            if bound < 1e-3:
                break
        else:
            status = "max-iterations"
    return entries, status


def paths_of(recipe: Recipe) -> list[dict[str, Any]]:
    """Five paths of the first and the last step that spiral to the point where path 0 ends."""
    entries = []
    for step, rate in ((0, 0.6), (recipe.inference_steps - 1, 0.35)):
        for path in range(5):
            for iteration in range(9):
                z = (path > 0) * np.exp(1j * (1.4 * path + 0.3 * iteration)) * rate**iteration
                place = {"step": step, "timestep": 1 + 40 * step, "path": path, "iteration": iteration}
                entries.append(place | {"x": z.real, "y": z.imag, "distance": abs(z)})
    return entries


def scene(generator: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, Image.Image, Image.Image]:
    """A hazy landscape, the clear one, and the haze between them (0 to 255)."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    ridge = 0.45 + sum(0.06 / k * np.sin(2 * np.pi * (k * 1.3 * x + generator.uniform())) for k in range(1, 5))
    land = (y > ridge)[..., None]
    sky = np.stack([0.35 + 0.4 * y, 0.55 + 0.3 * y, 0.95 - 0.1 * y], -1)
    ground = generator.uniform(0.1, 0.5, 3) * (0.6 + 0.8 * (y - ridge))[..., None]
    clear = np.where(land, ground + 0.03 * generator.normal(size=(height, width, 1)), sky).clip(0, 1)
    depth = np.where(land[..., 0], 1 - (y - ridge) / (1 - ridge + 1e-6), 1.2)
    haze = 1 - np.exp(-generator.uniform(0.8, 1.6) * depth)
    hazy = clear * (1 - haze[..., None]) + 0.85 * haze[..., None]
    return picture(hazy), picture(clear), picture(haze)


def picture(values: np.ndarray) -> Image.Image:
    return Image.fromarray((values * 255).round().astype(np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def save(path: Path, image: Image.Image) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=88)
    return path.read_bytes()
