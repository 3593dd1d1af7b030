"""Photographs as a tensor of small random crops, with their captions: what the built-in models are trained on."""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

log = logging.getLogger(__name__)
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
KEPT_OUT = 20
"""One photograph of so many is kept out of the training of the networks of likely colours, to measure with."""


@dataclass(frozen=True)
class Crops:
    """``pixels`` (N, 3, S, S) uint8 and, for each, the index of its photograph and that photograph's captions."""

    pixels: Tensor
    photo: Tensor
    captions: list[list[str]]

    def to(self, device: torch.device) -> Crops:
        """The same with the tensors on ``device``."""
        return Crops(self.pixels.to(device), self.photo.to(device), self.captions)


def read_captions(folder: Path) -> dict[str, list[str]]:
    """Captions by file name from ``captions.tsv`` (file, caption) or ``captions.txt`` (CSV: image, caption), if any."""
    for name, delimiter in (("captions.tsv", "\t"), ("captions.txt", ",")):
        if (folder / name).is_file():
            captions: dict[str, list[str]] = {}
            with (folder / name).open(newline="") as lines:
                rows = csv.reader(lines, delimiter=delimiter)
                next(rows)
                for row in rows:
                    captions.setdefault(Path(row[0]).name, []).append(row[1].strip().lower())
            return captions
    return {}


def is_kept_out(path: Path) -> bool:
    """Whether a photograph is one to measure with: the SHA-1 of its name is a multiple of ``KEPT_OUT``."""
    return int(hashlib.sha1(path.name.encode(), usedforsecurity=False).hexdigest(), 16) % KEPT_OUT == 0


def list_photographs(folders: Sequence[Path]) -> Iterator[tuple[Path, list[str]]]:
    """Every photograph under ``folders``, sorted, with its captions (an empty list where there are none)."""
    for folder in folders:
        captions = read_captions(folder)
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
            yield path, captions.get(path.name, [])


def _random_crop(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """A crop of 45-100 % of each side, squeezed to a square: the model sees whole photographs squeezed just so."""
    w, h = image.size
    cw, ch = int(w * rng.uniform(0.45, 1.0)), int(h * rng.uniform(0.45, 1.0))
    x, y = int(rng.integers(0, w - cw + 1)), int(rng.integers(0, h - ch + 1))
    return image.resize((size, size), Image.Resampling.BOX, box=(x, y, x + cw, y + ch))


def load_crops(folders: Sequence[Path], size: int, per_photo: int, *, seed: int = 0) -> Crops:
    """Cut ``per_photo`` crops of ``size``² from each photograph; the first is the whole photograph.

    Files that are no photographs are skipped with a warning. Raises ValueError if nothing is left.
    """
    rng = np.random.default_rng(seed)
    pixels: list[np.ndarray] = []
    photo: list[int] = []
    captions: list[list[str]] = []
    for path, texts in list_photographs(folders):
        try:
            image = Image.open(path).convert("RGB")
        except OSError as error:
            log.warning("skipped %s: %s", path.name, error)
            continue
        image.thumbnail((4 * size, 4 * size), Image.Resampling.BOX)
        crops = [image.resize((size, size), Image.Resampling.BOX)]
        crops += [_random_crop(image, size, rng) for _ in range(per_photo - 1)]
        pixels += [np.asarray(crop) for crop in crops]
        photo += [len(captions)] * per_photo
        captions.append(texts)
    if not pixels:
        raise ValueError(f"no photographs found under {', '.join(map(str, folders))}")
    stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return Crops(stacked, torch.tensor(photo), captions)
