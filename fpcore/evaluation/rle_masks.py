"""PIE-Bench's masks: runs of pixels in the flat picture of 512 × 512, and the pictures they stand for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SIDE = 512


def decode_mask(runs: Sequence[int], side: int = SIDE, *, border: bool = True) -> Tensor:
    """(side, side) bool from flat runs [start, length, start, length, …].

    Runs past the end are cut off there. ``border``: the outermost pixel is True whatever the runs say, as the benchmark
    measures. Raises ValueError for runs that are no pairs or start outside the picture.
    """
    check_runs(runs, side)
    mask = torch.zeros(side * side, dtype=torch.bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        mask[start : start + length] = True
    mask = mask.view(side, side)
    if border:
        mask[[0, -1]] = mask[:, [0, -1]] = True
    return mask


def encode_mask(mask: Tensor) -> list[int]:
    """The runs of a mask (side, side) bool: ``decode_mask`` without its border gives the mask back."""
    flat = torch.nn.functional.pad(mask.flatten().int(), (1, 1))
    edges = flat.diff().nonzero().flatten()
    starts, ends = edges[::2], edges[1::2]
    return torch.stack([starts, ends - starts], dim=1).flatten().tolist()  # type: ignore[no-any-return]


def check_runs(runs: Sequence[int], side: int = SIDE) -> None:
    """Raise ValueError for runs that are no pairs or lie outside."""
    if len(runs) % 2:
        raise ValueError(f"a mask is pairs of start and length, not {len(runs)} numbers")
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        if not 0 <= start < side * side or length < 0:
            raise ValueError(f"the mask's run [{start}, {length}] lies outside a picture of {side} × {side}")
