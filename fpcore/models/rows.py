"""How many network rows to evaluate at once: enough to be quick, no more than fit."""

from __future__ import annotations

from functools import lru_cache

import torch

from fpcore.models.model import Model
from fpcore.models.sizing import size_multiple

CPU_POSITIONS = 1024
"""Latent positions in a batch past which a processor gains nothing more: 16 rows of 8 × 8, one of 32 × 32."""
GPU_POSITIONS = 32 * 64**2
"""The same for a GPU: 32 rows of Stable Diffusion 1, 2,048 of 8 × 8. By reading, not measured."""
SPARE = 0.2
"""Share of the free memory that is left alone."""


@lru_cache(maxsize=64)
def auto_batch_size(model: Model, height: int, width: int) -> int:
    """Network rows that are quick and fit, for pictures of that many pixels before padding; measured once on CUDA."""
    multiple = size_multiple(model)
    channels, h, w = model.latent_shape(height + -height % multiple, width + -width % multiple)
    if model.device.type != "cuda":
        return max(1, CPU_POSITIONS // (h * w))
    shape = (channels if model.is_flow else int(model.unet.config.in_channels), h, w)
    try:
        used = [_peak_bytes(model, shape, rows) for rows in (1, 2, 4)]  # the first call also allocates workspaces
    except torch.OutOfMemoryError:
        return 1
    free, _ = torch.cuda.mem_get_info(model.device)
    free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    return rows_that_fit(free, used[1], (used[2] - used[1]) // 2, max(1, GPU_POSITIONS // (h * w)))


def rows_that_fit(free: int, two: int, each: int, most: int) -> int:
    """The power of two up to ``most`` whose rows fit into ``free`` bytes; two rows take ``two``, each more ``each``."""
    fit = 2 + int(((1 - SPARE) * free - two) // max(1, each))
    return 1 << (min(max(1, fit), most).bit_length() - 1)


def _peak_bytes(model: Model, shape: tuple[int, int, int], rows: int) -> int:
    """Bytes that a network call allocates for ``rows`` rows beyond what is held anyway."""
    held = torch.cuda.memory_allocated(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    t = torch.full((rows,), 500, device=model.device)
    with torch.no_grad():
        model.predict(torch.zeros((rows, *shape), device=model.device), t, model.embed([""]).repeat(rows))
    return torch.cuda.max_memory_allocated(model.device) - held
