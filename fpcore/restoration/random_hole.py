"""Holes to measure inpainting by: a rectangle, blobs or scratches of a random place, over 5 to 15 % of a picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

LEAST, MOST = 0.05, 0.15


def random_hole(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """(H, W). Blobs are where a smooth random field is highest, scratches where it is next to zero."""
    share = rng.uniform(LEAST, MOST)
    kind = rng.choice(["rectangle", "blobs", "scratches"])
    if kind == "rectangle":
        return _rectangle(height, width, share, rng)
    field = _smooth_field(height, width, 6 if kind == "blobs" else 4, rng)
    rank = -field if kind == "blobs" else np.abs(field)
    hole: npt.NDArray[np.bool_] = rank <= np.quantile(rank, share)
    return hole


def _rectangle(height: int, width: int, share: float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    stretch = np.exp(rng.uniform(-0.5, 0.5))
    h, w = (max(1, round(side * s)) for side, s in ((height, share**0.5 * stretch), (width, share**0.5 / stretch)))
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    hole = np.zeros((height, width), bool)
    hole[y : y + h, x : x + w] = True
    return hole


def _smooth_field(height: int, width: int, cells: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A random field (H, W) that turns about ``cells`` times along each side."""
    coarse = torch.from_numpy(rng.standard_normal((1, 1, cells, cells), np.float32))
    field: npt.NDArray[np.float32] = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[
        0, 0
    ].numpy()
    return field
