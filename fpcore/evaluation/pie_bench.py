"""PIE-Bench (Ju et al. 2024): the mapping file, the masks, and the seven measures exactly as the benchmark takes them.

Background measures multiply both pictures by (1 − mask) over the full frame, without renormalising.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from fpcore.evaluation.metrics import psnr
from fpcore.evaluation.perceptual import Judges, Unavailable
from fpcore.evaluation.rle_masks import check_runs, decode_mask

EDITING_TYPES = {
    "0": "random",
    "1": "change object",
    "2": "add object",
    "3": "delete object",
    "4": "change attribute: content",
    "5": "change attribute: pose",
    "6": "change attribute: colour",
    "7": "change attribute: material",
    "8": "change background",
    "9": "change style",
}
METRICS = (
    "structure_distance",  # ×10³, pixels from 0 to 255 as published
    "structure_distance_normalised",  # ×10³, pixels as the network was trained
    "psnr_unedit_part",  # dB
    "lpips_unedit_part",  # ×10³
    "mse_unedit_part",  # ×10⁴
    "ssim_unedit_part",  # ×10²
    "clip_similarity_target_image",
    "clip_similarity_target_image_edit_part",
)


@dataclass(frozen=True)
class Published:
    """A row of the literature: SD 1.4, Prompt-to-Prompt, 50 steps, w 7.5. Printed there, not measured here."""

    method: str
    structure_distance: float
    psnr_unedit_part: float
    lpips_unedit_part: float
    ssim_unedit_part: float


PUBLISHED = (
    Published("DDIM", 69.4, 17.87, 208.8, 71.1),
    Published("NTI", 13.4, 27.03, 60.7, 84.1),
    Published("direct inversion", 11.7, 27.22, 54.6, 84.8),
    Published("FPI", 14.7, 26.61, 62.0, 83.5),
    Published("AIDI", 12.2, 27.01, 56.4, 84.3),
    Published("SPDInv", 8.8, 28.60, 36.0, 86.2),
    Published("ENM", 10.1, 28.19, 45.3, 86.3),
)


# The mapping file


@dataclass(frozen=True)
class PieSample:
    """One entry of the mapping file, prompts without their brackets. ``runs``: the mask, start and length in turn."""

    id: str
    image_path: str
    source_prompt: str
    target_prompt: str
    editing_type: str
    blend_words: tuple[str, str] | None
    runs: tuple[int, ...]

    def mask(self) -> Tensor:
        """(512, 512) bool, True where the picture may change."""
        return decode_mask(self.runs)


def read_mapping(content: str | bytes) -> list[PieSample]:
    """The samples of a ``mapping_file.json``, in its order. Raises ValueError naming the entry that is not right."""
    try:
        entries = json.loads(content)
    except ValueError as error:
        raise ValueError(f"the mapping file is not JSON: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError("the mapping file must be one JSON object from ids to entries")
    return [_read_entry(key, entry) for key, entry in entries.items()]


def _read_entry(key: str, entry: Any) -> PieSample:
    try:
        words, runs = entry["blended_word"].split(), tuple(entry["mask"])
        if len(words) == 1:
            raise ValueError(f"blended_word needs a word of either prompt, not only {words[0]!r}")
        check_runs(runs)
        source, target = (entry[f"{name}_prompt"].replace("[", "").replace("]", "") for name in ("original", "editing"))
        blend = (words[0], words[1]) if words else None
        return PieSample(key, entry["image_path"], source, target, str(entry["editing_type_id"]), blend, runs)
    except KeyError as error:
        raise ValueError(f"entry {key!r} of the mapping file has no {error}") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"entry {key!r} of the mapping file: {error}") from error


# Measures


@dataclass(frozen=True)
class Measure:
    """A measured number; NaN where the picture does not allow it, None where it could not be taken, with the reason."""

    value: float | None
    reason: str = ""


def through_jpeg(image: Tensor, quality: int = 75) -> Tensor:
    """(3, H, W) in [0, 1] as it reads after the benchmark has saved it as JPEG, with Pillow's usual settings."""
    pixels = (image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    read = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)
    return (read / 255).to(image)


@torch.no_grad()
def measure(source: Tensor, edited: Tensor, mask: Tensor, target_prompt: str, judges: Judges) -> dict[str, Measure]:
    """Every measure of ``METRICS`` for one picture.

    Args:
        source: (3, H, W) in [0, 1].
        edited: the same; the benchmark measures edited pictures after ``through_jpeg``.
        mask: (H, W) bool, True where the picture may change.
    """
    if source.shape != edited.shape or source.shape[1:] != mask.shape:
        raise ValueError(
            f"source {tuple(source.shape)}, edited {tuple(edited.shape)} and mask {tuple(mask.shape)} differ in size"
        )
    before, after, inside = source[None].float(), edited[None].float(), mask[None, None].to(source.device)
    return (
        _structure(before, after, judges)
        | _background(before, after, inside, judges)
        | _clip(after, inside, target_prompt, judges)
    )


def _structure(before: Tensor, after: Tensor, judges: Judges) -> dict[str, Measure]:
    names = {"structure_distance": True, "structure_distance_normalised": False}
    judge = judges.structure
    if isinstance(judge, Unavailable):
        return dict.fromkeys(names, Measure(None, judge.reason))
    return {name: Measure(1e3 * float(judge(after, before, as_published=p))) for name, p in names.items()}


def _background(before: Tensor, after: Tensor, inside: Tensor, judges: Judges) -> dict[str, Measure]:
    names = [f"{name}_unedit_part" for name in ("psnr", "mse", "ssim", "lpips")]
    if bool(inside.all()):
        return dict.fromkeys(names, Measure(math.nan, "the mask covers the whole picture"))
    x, y = before * ~inside, after * ~inside
    taken = [psnr(y, x), 1e4 * (y - x).square().mean(), 1e2 * _ssim(y, x)]
    measures = [Measure(float(value)) for value in taken]
    judge = judges.lpips
    if isinstance(judge, Unavailable):
        measures.append(Measure(None, judge.reason))
    else:
        measures.append(Measure(1e3 * float(judge(2 * y - 1, 2 * x - 1))))
    return dict(zip(names, measures, strict=True))


def _ssim(image: Tensor, reference: Tensor) -> Tensor:
    """SSIM as torchmetrics took it when the published figures were measured, and as scikit-image does: without the
    frame of 5 pixels where the window sticks out. From release 1.5 on torchmetrics averages over that frame too."""
    _, full = structural_similarity_index_measure(image, reference, data_range=1.0, return_full_image=True)
    return full[..., 5:-5, 5:-5].mean()


def _clip(after: Tensor, inside: Tensor, prompt: str, judges: Judges) -> dict[str, Measure]:
    name, judge = "clip_similarity_target_image", judges.clip
    if isinstance(judge, Unavailable):
        return dict.fromkeys((name, f"{name}_edit_part"), Measure(None, judge.reason))
    whole, part = judge(torch.cat([after, after * inside]), [prompt, prompt]).tolist()
    if not bool(inside.any()):
        return {name: Measure(whole), f"{name}_edit_part": Measure(math.nan, "the mask is empty")}
    return {name: Measure(whole), f"{name}_edit_part": Measure(part)}


def mean(measures: Iterable[Measure]) -> Measure:
    """The mean of the numbers, without those that are NaN; unavailable if there is none."""
    measures = list(measures)
    values = [m.value for m in measures if m.value is not None and not math.isnan(m.value)]
    if values:
        return Measure(sum(values) / len(values))
    return Measure(None, next((m.reason for m in measures if m.reason), "nothing was measured"))


def means_by_type(rows: Iterable[tuple[PieSample, dict[str, Measure]]]) -> dict[str, dict[str, Measure]]:
    """``mean`` of every measure over all rows ("all") and over each editing type that occurs, by its name."""
    rows = list(rows)
    groups = {"all": rows}
    for key, name in EDITING_TYPES.items():
        groups[name] = [row for row in rows if row[0].editing_type == key]
    return {
        group: {metric: mean(measures[metric] for _, measures in members) for metric in METRICS}
        for group, members in groups.items()
        if members
    }
