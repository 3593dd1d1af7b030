"""Restoring a group of photos: the bridge from a configuration to ``fpcore.restoration``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.evaluation.metrics import colourfulness
from fpcore.evaluation.rle_masks import SIDE, decode_mask
from fpcore.inversion.criteria import Status
from fpcore.inversion.invert import Inversion
from fpcore.models.model import Model
from fpcore.models.sizing import fit_size, pad, size_multiple
from fpcore.restoration.chroma import LONGEST_SIDE, likely_colours, weights_digest
from fpcore.restoration.degradation import Average, Degradation, Grey, Hole, luma
from fpcore.restoration.full_resolution import colour, contradiction, enlarge, fill, grey, invented
from fpcore.restoration.restore import Restored, RestoreSettings, restore
from tasks.config import RunConfig
from tasks.photos.decode import Photo, Pixels, model_input
from tasks.shard.cancellation import Stop
from tasks.shard.loaded import Loaded
from tasks.shard.method import inversion_method
from tasks.shard.outcome import NON_FINITE, Columns, Failure, Outcome, inversion_columns, png, step_rows
from tasks.shard.requests import EditRequests

Hollow = npt.NDArray[np.bool_]
WORDS_FOR_GREY = ("black and white photo", "color photo")
"""Words of the damage and of the whole, where neither run nor manifest gives any; none where it is not grey that is inverted."""
NOISE_LEVEL = {"colorize": 0.1, "inpaint": 0.3, "super-resolution": 0.15}
"""Detail is added to large shapes and colours that the photo has, or that are likely; from more noise the model invents more,
and is further from the truth."""
MAX_ENLARGED = 24_000_000
"""Pixels of an enlarged photo: the engine holds about 120 bytes for each."""
THUMBNAIL = 256
MAP_SIDE = 1024
NO_MASK = Failure(
    "no-mask", "Nothing says where to inpaint. Give --masks, a folder of masks, or a column mask in the manifest."
)
TOO_LARGE = Failure(
    "too-large",
    f"Enlarged, the photo would have more than {MAX_ENLARGED // 10**6} megapixels. Use --scale 2 or crop it.",
)


def working_size(config: RunConfig, model: Model, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which a photo of ``size`` goes to ``run_restore``: the model's, or its own to be enlarged."""
    return size if config.task == "super-resolution" else fit_size(size[1], size[0], model)[::-1]


def refusal(config: RunConfig, size: tuple[int, int]) -> Failure | None:
    """Why a photo of ``size`` (height, width) cannot be restored, before anything is done."""
    if (config.operation, config.task) != ("restore", "super-resolution"):
        return None
    return TOO_LARGE if size[0] * size[1] * config.scale**2 > MAX_ENLARGED else None


def hole_of(item: Loaded, config: RunConfig, size: tuple[int, int]) -> Hollow | None:
    """(H, W): where the photo is to be inpainted, from its mask picture or the runs of its manifest. None if neither."""
    if item.mask is not None:
        return item.mask >= 0.5
    runs = item.planned.mask or config.mask
    if runs is None:
        return None
    square = decode_mask(runs, SIDE, border=False).float()
    return F.interpolate(square[None, None], size, mode="nearest-exact")[0, 0].numpy() > 0


def run_restore(
    model: Model, config: RunConfig, photos: Sequence[Loaded], pixels: Tensor, requests: EditRequests, should_stop: Stop
) -> tuple[list[Outcome], dict[str, float]]:
    """Restore (M, 3, H, W) in [0, 1] of ``working_size``; outcomes in order, and seconds by stage.

    A photo without a hole to fill fails alone.
    """
    holes = [_small_hole(item, config, pixels) for item in photos]
    able = [i for i in range(len(photos)) if config.task != "inpaint" or holes[i] is not None]
    found: dict[int, Outcome] = {}
    seconds: dict[str, float] = {}
    if able:
        damage = _damage(config, model, pixels[able], [holes[i] for i in able], [photos[i].photo for i in able])
        asked = requests.of(able)
        words = [_words(config, prompt, target) for prompt, target in zip(asked.prompts, asked.targets, strict=True)]
        settings = _settings(config, damage.start().shape[-2:].numel())
        restored = restore(model, damage, words, settings, seeds=asked.seeds, should_stop=should_stop)
        found = {i: _outcome(config, pixels[i], words[n], restored, n) for n, i in enumerate(able)}
        seconds = restored.seconds
    missing = [Outcome(picture, picture, 0.0, Columns(), NO_MASK) for picture in pixels]
    return [found.get(i, missing[i]) for i in range(len(photos))], seconds


def restored_pixels(config: RunConfig, item: Loaded, photo: Photo, outcome: Outcome) -> Pixels:
    """The restored photograph at its own resolution, or enlarged."""
    match config.task:
        case "colorize":
            return colour(photo.pixels, outcome.source, outcome.result)
        case "inpaint":
            hole = hole_of(item, config, photo.size)
            assert hole is not None
            return fill(photo.pixels, hole, outcome.result)
        case _:
            return enlarge(outcome.result, photo.pixels)


def restored_like(config: RunConfig, photo: Photo) -> Photo:
    """What a restored photo is encoded like: coloured if it was grey, its alpha enlarged where it is.

    A file format that changes pixels would break what is promised of them, so ``same`` is then PNG.
    """
    lossless = photo.format in ("png", "tiff") or photo.lossless
    photo = photo if lossless else replace(photo, format="png")
    if config.task == "colorize" and photo.grey:
        return replace(photo, grey=False, metadata=replace(photo.metadata, icc=None))
    if config.task == "super-resolution" and photo.alpha is not None:
        return replace(photo, alpha=photo.alpha.repeat(config.scale, 0).repeat(config.scale, 1))
    return photo


def restoration_columns(config: RunConfig, item: Loaded, photo: Photo, pixels: Pixels) -> Columns:
    """The photo's columns with what can be said of the published ``pixels``: how true they are to it, what is invented."""
    hole = hole_of(item, config, photo.size) if config.task == "inpaint" else None
    factor = config.scale if config.task == "super-resolution" else None
    measures = {"consistency_error": contradiction(photo.pixels, pixels, hole, factor)}
    if hole is not None:
        measures["invented_share"] = float(hole.mean())
    chosen = item.columns.measured(measures)
    if not config.invention_map:
        return chosen
    if hole is not None:
        where = np.uint8(255) * hole.astype(np.uint8)
    elif factor is not None:
        where = invented(photo.pixels.repeat(factor, 0).repeat(factor, 1), pixels)
    else:
        where = invented(grey(photo.pixels), pixels)
    return replace(chosen, invention_map=png(_shrunk(torch.from_numpy(where / np.float32(255))[None], MAP_SIDE)[0]))


def said_to_be_invented(config: RunConfig, columns: Columns) -> str:
    """What was invented and where, in words, for the picture's provenance."""
    share = (columns.metrics or {}).get("invented_share", 0.0)
    return {
        "colorize": "The colours of all pixels. Their luma is the photograph's own.",
        "inpaint": f"The pixels inside the mask, {share:.1%} of the picture. All others are the photograph's own.",
        "super-resolution": f"Detail finer than {config.scale} pixels. Averages over {config.scale} x {config.scale} "
        "pixels are the photograph's own.",
    }[config.task]


def _from_grey(config: RunConfig) -> bool:
    return config.task == "colorize" and config.colour_start == "grey"


def _noise_level(config: RunConfig) -> float:
    """Grey has no colours to keep: it is inverted to the end."""
    return config.noise_level or (math.inf if _from_grey(config) else NOISE_LEVEL[config.task])


def _words(config: RunConfig, prompt: str, target: str | None) -> tuple[str, str]:
    usual = WORDS_FOR_GREY if _from_grey(config) else ("", "")
    return prompt or usual[0], usual[1] if target is None else target


def _settings(config: RunConfig, pixels: int) -> RestoreSettings:
    return RestoreSettings(
        method=inversion_method(config),
        num_inference_steps=config.num_inference_steps,
        noise_level=_noise_level(config),
        batch_size=max(1, min(config.batch_size, MAX_ENLARGED // pixels)),
    )


def _small_hole(item: Loaded, config: RunConfig, pixels: Tensor) -> Tensor | None:
    """(1, h, w) bool at the size of ``pixels``: every pixel of which a part is in the hole."""
    photo = item.photo
    hole = None if config.task != "inpaint" or photo is None else hole_of(item, config, photo.size)
    if hole is None:
        return None
    return F.adaptive_max_pool2d(torch.from_numpy(hole)[None].float(), pixels.shape[-2:]) > 0


def _damage(
    config: RunConfig, model: Model, pixels: Tensor, holes: Sequence[Tensor | None], photos: Sequence[Photo | None]
) -> Degradation:
    """What the group's photos say, padded to a size that the model takes."""
    if config.task == "super-resolution":
        multiple = size_multiple(model) // math.gcd(size_multiple(model), config.scale)
        height, width = pixels.shape[-2:]
        padding = (0, -width % multiple, 0, -height % multiple)
        return Average(F.pad(pixels, padding, mode="replicate"), config.scale)
    if config.task == "colorize":
        if _from_grey(config):
            return Grey.of(pad(pixels, model))
        likely = torch.stack([_coloured(picture, photo) for picture, photo in zip(pixels, photos, strict=True)])
        return Grey.of(pad(pixels, model), pad(likely, model))
    hole = torch.stack([h for h in holes if h is not None])
    return Hole(pad(pixels, model), pad(hole.float(), model) > 0)


def _coloured(picture: Tensor, photo: Photo | None) -> Tensor:
    """``picture`` (3, h, w) in the colours that its photograph is likely to have had.

    The network was trained on pictures brought to its size by a triangle, as ``likely_colours`` does, not by area averages, which
    are sharper; so it is shown twice that size.
    """
    seen = picture
    if photo is not None:
        height, width = (max(1, round(side * 2 * LONGEST_SIDE / max(photo.size))) for side in photo.size)
        seen = torch.from_numpy(model_input(photo, (height, width)))
    likely = F.interpolate(likely_colours(luma(seen[None])), picture.shape[-2:], mode="bilinear", antialias=True)
    return Grey.of(picture[None]).project(likely)[0]


def _outcome(config: RunConfig, picture: Tensor, words: tuple[str, str], restored: Restored, i: int) -> Outcome:
    height, width = (side * (config.scale if config.task == "super-resolution" else 1) for side in picture.shape[-2:])
    source, result = (p[i, :, :height, :width] for p in (restored.start, restored.result))
    if config.task == "colorize":  # the change from grey is what is carried to the photograph
        source = Grey.of(source[None]).grey()[0]
    said: dict[str, str | float] = {"task": config.task, "noise_level": _noise_level(config)}
    if config.task == "super-resolution":
        said["scale"] = config.scale
    if config.task == "colorize":
        said["colour_start"] = "grey" if _from_grey(config) else f"likely, by {weights_digest()[:16]}"
    sampling = restored.sampling
    columns = replace(
        inversion_columns(config, restored.schedule, restored.inversion, i),
        prompt=words[0],
        target_prompt=words[1],
        edit_settings=json.dumps({k: None if v == math.inf else v for k, v in said.items()}, sort_keys=True),
        sampling_status=sampling.status[i].label,
        sampling_steps=step_rows(sampling, restored.descent, i) if config.save_steps else None,
        nfe=restored.nfe[i],
        batch_size=restored.rows or config.batch_size,
    )
    worst = max(restored.inversion.status[i], sampling.status[i])
    if worst == Status.NONFINITE or not bool(result.isfinite().all()):
        return Outcome(source, source, 0.0, replace(columns, latent=None), NON_FINITE, "restored")
    measures = {
        "colourfulness_before": float(colourfulness(source[None])[0]),
        "colourfulness_after": float(colourfulness(result[None])[0]),
        "steps_converged": _converged(restored, i),
    }
    columns = replace(columns, output=png(_shrunk(result, THUMBNAIL)), metrics=measures)
    return Outcome(source, result, 1.0, columns, None, "restored")


def _converged(restored: Restored, image: int) -> float:
    """Share of the steps, up and down, that converged; NaN where a fixed count of iterations judged none."""
    ends = np.concatenate([_last_statuses(walk, image) for walk in (restored.inversion, restored.sampling)])
    return math.nan if (ends == Status.COMPLETED).all() else float((ends == Status.CONVERGED).mean())


def _last_statuses(walk: Inversion, image: int) -> npt.NDArray[np.int64]:
    """The status in which each recorded step of an image ended."""
    records = walk.records.of_image(image)
    last = np.append(records.step[1:] != records.step[:-1], True)
    ends: npt.NDArray[np.int64] = records.status[last]
    return ends


def _shrunk(picture: Tensor, side: int) -> Tensor:
    """(C, H, W) with no side longer than ``side``."""
    height, width = picture.shape[-2:]
    if max(height, width) <= side:
        return picture
    ratio = side / max(height, width)
    size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    return F.interpolate(picture[None].float(), size, mode="area")[0]
