"""Small data sets in the benchmarks' own layouts, from photographs that scikit-image and scikit-learn ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from fpcore.builtin.demo_photographs import clear_photographs, write_hazy
from fpcore.evaluation.rle_masks import SIDE

EDITS = (
    # photograph, original, editing, blended words, editing type, the rows of the picture that may change
    ("china", "a photo of a [campus]", "a photo of a [desert]", "campus desert", "8", (0, SIDE)),
    ("flower", "a photo of a [garden]", "a photo of a [desert]", "", "8", (0, SIDE)),
    ("rocket", "a photo of a [sky]", "a photo of an [ocean]", "sky ocean", "8", (0, SIDE // 2)),
    ("coffee", "a photo of a [garden]", "a photo of a [mountain]", "", "1", (SIDE // 4, SIDE)),
)  # fmt: skip


def write_edits(folder: Path, photos: int) -> str:
    """A folder in PIE-Bench's layout with up to ``photos`` of ``EDITS``. Returns its name."""
    pictures, mapping = dict(clear_photographs()), dict[str, Any]()
    for number, (name, original, editing, words, kind, (top, bottom)) in enumerate(EDITS[:photos]):
        path = f"{kind}_type/{number:012d}.jpg"
        file = folder / "annotation_images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures[name]).resize((SIDE, SIDE)).save(file, quality=95)
        mapping[f"{number:012d}"] = {
            "image_path": path,
            "original_prompt": original,
            "editing_prompt": editing,
            "editing_instruction": "",
            "editing_type_id": kind,
            "blended_word": words,
            "mask": [top * SIDE, (bottom - top) * SIDE],
        }
    (folder / "mapping_file.json").write_text(json.dumps(mapping))
    return str(folder)


def write_haze(folder: Path, photos: int) -> str:
    """A folder in RESIDE's layout: up to ``photos`` photographs and haze rendered on them. Returns its name."""
    write_hazy(folder / "hazy", folder / "gt")
    for part in ("hazy", "gt"):
        for file in sorted((folder / part).iterdir())[photos:]:
            file.unlink()
    return str(folder)
