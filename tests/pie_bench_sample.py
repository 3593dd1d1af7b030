"""A folder shaped like PIE-Bench, from free pictures that come with scikit-image and scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fpcore.builtin.demo_photographs import clear_photographs
from fpcore.evaluation.rle_masks import SIDE, encode_mask

ENTRIES: list[tuple[str, str, str, str, str, tuple[float, float, float, float]]] = [
    # photograph, original, editing, blended words, editing type, box of the mask as shares: left, top, right, bottom
    ("chelsea", "a photo of a [cat]", "a photo of a [dog]", "cat dog", "1", (0.1, 0.1, 0.9, 0.9)),
    ("rocket", "a [sky]", "a [clear] sky", "", "2", (0, 0, 1, 0.5)),
    ("china", "a house in the [fog]", "a house", "", "3", (0, 0, 1, 0.4)),
    ("coffee", "a photo of the [road]", "a photo of the [ocean]", "road ocean", "8", (0, 0, 1, 1)),
]


def write_sample(folder: Path) -> Path:
    """Four pictures of 512 × 512 with masks, prompts in brackets and editing types. Returns ``folder``."""
    photographs = dict(clear_photographs())
    mapping: dict[str, Any] = {}
    for number, (name, original, editing, words, kind, box) in enumerate(ENTRIES):
        path = f"{kind}_type/{number:012d}.jpg"
        file = folder / "annotation_images" / path
        file.parent.mkdir(parents=True)
        Image.fromarray(photographs[name]).resize((SIDE, SIDE)).save(file, quality=95)
        mapping[f"{number:012d}"] = {
            "image_path": path,
            "original_prompt": original,
            "editing_prompt": editing,
            "editing_instruction": "",
            "editing_type_id": kind,
            "blended_word": words,
            "mask": box_runs(box),
        }
    (folder / "mapping_file.json").write_text(json.dumps(mapping))
    return folder


def box_runs(box: tuple[float, float, float, float]) -> list[int]:
    """The runs of a rectangle, given as shares of the sides."""
    left, top, right, bottom = (round(share * SIDE) for share in box)
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return encode_mask(mask)
