"""Sums and extremes over sliding windows in as many passes as the window's length has binary digits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Combine = Callable[[Tensor, Tensor], Tensor]


def sliding(x: Tensor, window: int, dim: int, combine: Combine) -> Tensor:
    """``combine`` (associative, as torch.add or torch.maximum) over every ``window`` neighbours along ``dim``.

    The axis becomes ``window`` − 1 shorter.
    """
    if window == 1:
        return x
    half, length = window // 2, x.shape[dim] - window + 1
    part = sliding(x, half, dim, combine)
    both = combine(part.narrow(dim, 0, length), part.narrow(dim, half, length))
    return both if window % 2 == 0 else combine(both, x.narrow(dim, window - 1, length))


def window_mean(x: Tensor, window: int) -> Tensor:
    """Means (…, H − window + 1, W − window + 1) of (…, H, W) over windows."""
    return sliding(sliding(x, window, -2, torch.add), window, -1, torch.add) / window**2
