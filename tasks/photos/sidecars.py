"""Pictures that say something about a photograph: its region mask, its depth map, under the photo's own name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.photos.decode import Photo, PhotoLimits, decode_photo
from tasks.photos.formats import PhotoError
from tasks.store.errors import NotFound
from tasks.store.objects import read_under

Grey = npt.NDArray[np.float32]


def read_sidecar(
    folder: str,
    key: str,
    kind: str,
    limits: PhotoLimits,
    decode: Callable[[bytes, PhotoLimits], Photo] = decode_photo,
) -> Grey:
    """Read the picture ``folder``/``key``, or the same name ending in .png, as (H, W) in [0, 1]: black 0, white 1.

    Coloured pictures count by their mean. ``decode`` may watch over the time that decoding takes. Raises PhotoError
    (``kind``-missing, or ``kind``-damaged with the reason); StoreError if the store itself fails.
    """
    word = kind.replace(" ", "-")
    names = dict.fromkeys((key, str(PurePosixPath(key).with_suffix(".png"))))
    for name in names:
        try:
            data = read_under(folder, name, max_bytes=limits.max_bytes)
        except NotFound:
            continue
        try:
            pixels = decode(data, limits).pixels
        except PhotoError as error:
            raise PhotoError(f"{word}-damaged", f"The {kind} {name} cannot be used. {error}") from error
        grey: Grey = pixels.mean(2, dtype=np.float32) / np.float32(np.iinfo(pixels.dtype).max)
        return grey
    raise PhotoError(f"{word}-missing", f"No {kind} {' or '.join(names)} in the folder of {kind}s. Add it there.")


def resized(grey: Grey, size: tuple[int, int]) -> Grey:
    """(H, W) in [0, 1] brought to ``size`` (h, w): area averages when shrinking, bilinear when growing."""
    if grey.shape == size:
        return grey
    shrinking = grey.shape[0] >= size[0] and grey.shape[1] >= size[1]
    method = Image.Resampling.BOX if shrinking else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(grey).resize(size[::-1], method), np.float32).clip(0, 1)
