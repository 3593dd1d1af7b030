"""Photos of any size and shape for a model that was trained at one size: choose a size, pad, crop back."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from fpcore.models.flow import PATCH
from fpcore.models.model import Model

LONGEST_SIDE = 2.0
"""No side is processed at more than this many times the side of the model's own square."""


def fit_size(width: int, height: int, model: Model) -> tuple[int, int]:
    """(width, height) in pixels to resize a photo to before ``pad`` and ``Model.encode``.

    The built-in models get whole photographs squeezed into their square. Stable Diffusion keeps the photo's aspect, at
    the number of pixels it was trained with; only the long side of shapes beyond 4:1 is held to ``LONGEST_SIDE``.

    Raises:
        ValueError: a side is not positive.
    """
    if width < 1 or height < 1:
        raise ValueError(f"a photo of {width}×{height} pixels has no content")
    native_height, native_width = model.image_size
    if model.family == "builtin":
        return native_width, native_height
    native = math.sqrt(native_height * native_width)
    scale = min(native / math.sqrt(width * height), LONGEST_SIDE * native / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def pad(pixels: Tensor, model: Model) -> Tensor:
    """(B, 3, H, W) with its right and bottom edge repeated until the UNet can halve the latents at each of its levels.

    ``crop(model.decode(model.encode(pad(x, model))), H, W)`` has the size of x.
    """
    multiple = size_multiple(model)
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def crop(pixels: Tensor, height: int, width: int) -> Tensor:
    """The top left (B, 3, height, width): takes away what ``pad`` added."""
    return pixels[..., :height, :width]


def size_multiple(model: Model) -> int:
    """Pixels that a side must be a multiple of: the VAE's factor times the UNet's (64 for SD 1 and 2, 32 for SDXL, 16 for flow)."""
    if model.is_flow:
        return model.scale_factor * PATCH
    levels = len(model.unet.config.block_out_channels)
    return model.scale_factor * int(2 ** (levels - 1))
