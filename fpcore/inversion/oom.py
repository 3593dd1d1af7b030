"""Out of memory on the device: evaluate fewer rows at a time, and remember."""

from __future__ import annotations

import torch
from torch import Tensor

from fpcore.inversion.invert import Predict


class OOMBackoff:
    """A ``Predict`` that halves the rows it evaluates at once whenever the device runs out of memory.

    It starts with all rows of a call and stays at whatever fitted. At one row the error is the caller's.
    """

    def __init__(self, predict: Predict) -> None:
        self.predict = predict
        self.rows: int | None = None
        """Rows evaluated at once; None as long as everything fitted."""

    def __call__(self, z: Tensor, timestep: Tensor, image: Tensor) -> Tensor:
        """Evaluate in as few pieces as fit."""
        while True:
            size = min(self.rows or len(z), len(z))
            pieces = zip(*(torch.split(x, size) for x in (z, timestep, image)), strict=True)
            try:
                return torch.cat([self.predict(*piece) for piece in pieces])
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            # outside the handler, so that the failed call's tensors are free
            self.rows = (size + 1) // 2
            if z.is_cuda:
                torch.cuda.empty_cache()
