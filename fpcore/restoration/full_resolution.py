"""From the restored low-resolution result to the photograph's own pixels, which stay what they are.

Integers in, integers out: photographs are (H, W, 3) uint8 or uint16. What is certain is exact up to rounding:
*colour* leaves the luma of each pixel, *filling* every pixel outside the hole, *enlarging* each block's average.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.color_transfer import Pixels, render
from fpcore.restoration.degradation import LUMA, Grey, Hole, fill_smoothly

BAND_ROWS = 256
MARGIN = 0.5
"""Of a hole's size: how much of its surroundings is looked at."""


def colour(pixels: Pixels, source: Tensor, result: Tensor) -> Pixels:
    """The photograph with the colours of ``result``, restored from ``source``, both (3, h, w) in [0, 1], and its own luma.

    Colours are carried along the photograph's edges (``fpcore.color_transfer``); where one does not exist at a pixel's luma
    it is made paler. Each colour is rounded by at most half a level, so the luma too is within half a level.
    """
    coloured = render(grey(pixels), source, result)
    for y in range(0, len(pixels), BAND_ROWS):
        band = slice(y, y + BAND_ROWS)
        coloured[band] = _integers(Grey.of(_floats(pixels[band])).in_gamut(_floats(coloured[band])), pixels)
    return coloured


def fill(pixels: Pixels, hole: npt.NDArray[np.bool_], result: Tensor) -> Pixels:
    """The photograph with ``hole`` (H, W) filled from ``result`` (3, h, w); every other pixel is the photograph's own.

    The result is enlarged, and what it misses by at the hole's border is taken away smoothly towards its middle, so that no
    seam is seen (Pérez et al. 2003, with a thin plate of the difference in the place of their membrane).
    """
    filled = pixels.copy()
    if not hole.any():
        return filled
    box = _surroundings(hole)
    own, inside = _floats(pixels[box]), torch.from_numpy(hole[box])[None, None]
    wide = _enlarged(result, hole.shape)[..., box[0], box[1]]
    seamless = wide + fill_smoothly(own - wide, inside, plate=True)
    complete = Hole(own, inside).in_gamut(seamless)
    filled[hole] = _integers(complete, pixels)[hole[box]]
    return filled


def enlarge(result: Tensor, like: Pixels) -> Pixels:
    """The enlarged picture (3, H, W) in [0, 1] in integers like those of the photograph ``like``.

    Rounding moves each pixel by half a level at most, and so each average.
    """
    return _integers(result[None], like)


def invented(plain: Pixels, after: Pixels) -> npt.NDArray[np.uint8]:
    """A map (H, W): how far each pixel lies from ``plain``, which invents nothing; 255: by half the range or more."""
    peak = np.iinfo(after.dtype).max
    apart = np.abs(after.astype(np.float32) - plain.astype(np.float32)).max(2) / peak
    scaled: npt.NDArray[np.uint8] = np.rint(np.minimum(2 * apart, 1) * 255).astype(np.uint8)
    return scaled


def contradiction(
    photo: Pixels, restored: Pixels, hole: npt.NDArray[np.bool_] | None = None, factor: int | None = None
) -> float:
    """How far a restored photograph is from saying what the photograph says, at worst, in levels of its integers.

    The luma rounded to whole levels; with a ``hole`` (H, W) the pixels outside; with a ``factor`` the averages of blocks.
    """
    worst = 0.0
    for y in range(0, len(photo), BAND_ROWS):
        band = slice(y, y + BAND_ROWS)
        own = photo[band].astype(np.float64)
        if factor is not None:
            blocks = restored[y * factor : (y + len(own)) * factor].astype(np.float64)
            apart = blocks.reshape(len(own), factor, -1, factor, 3).mean((1, 3)) - own
        elif hole is not None:
            apart = np.where(hole[band, :, None], 0, restored[band] - own)
        else:
            apart = np.rint(restored[band] @ np.array(LUMA)) - np.rint(own @ np.array(LUMA))
        worst = max(worst, float(np.abs(apart).max(initial=0)))
    return worst


def grey(pixels: Pixels) -> Pixels:
    """The photograph without its colours."""
    output = np.empty_like(pixels)
    for y in range(0, len(pixels), BAND_ROWS):
        band = slice(y, y + BAND_ROWS)
        output[band] = _integers(Grey.of(_floats(pixels[band])).grey(), pixels)
    return output


def _surroundings(hole: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    """A box around the hole, with a margin."""
    slices = []
    for axis in (1, 0):
        there = np.flatnonzero(hole.any(axis))
        margin = 8 + int(MARGIN * (there[-1] - there[0]))
        slices.append(slice(max(0, int(there[0]) - margin), int(there[-1]) + margin + 1))
    return slices[0], slices[1]


def _enlarged(picture: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(picture[None].float(), size, mode="bicubic", align_corners=False, antialias=True)


def _floats(pixels: Pixels) -> Tensor:
    """(H, W, 3) integers to (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max).permute(2, 0, 1)[None]


def _integers(picture: Tensor, like: Pixels) -> Pixels:
    """(1, 3, H, W) in [0, 1] to integers (H, W, 3) like the photograph's."""
    peak = np.iinfo(like.dtype).max
    levels = (picture[0].clamp(0, 1) * peak).round().permute(1, 2, 0).numpy()
    return levels.astype(np.uint8) if like.dtype == np.uint8 else levels.astype(np.uint16)
