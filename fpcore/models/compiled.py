"""A UNet compiled for the few batch shapes that the engine asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Compiled(nn.Module):
    """A UNet compiled by torch.compile for few shapes: rows are filled up to a power of two and cut off again.

    Compiling takes a minute or more for each number of rows; on CUDA the calls are then recorded as CUDA graphs.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        mode = "reduce-overhead" if next(unet.parameters()).is_cuda else "default"
        self.compiled = torch.compile(unet, dynamic=False, mode=mode)

    def __getattr__(self, name: str) -> Any:
        """The UNet's own attributes: dtype, config, attention processors."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("unet"), name)

    def forward(
        self, z: Tensor, t: Tensor, encoder_hidden_states: Tensor, added_cond_kwargs: Any, return_dict: bool = False
    ) -> tuple[Tensor]:
        """As the UNet's own, for rows (B, …)."""
        rows, filled = len(z), 1 << (len(z) - 1).bit_length()

        def fill(x: Tensor) -> Tensor:
            return x if filled == rows else torch.cat([x, x[-1:].expand(filled - rows, *x.shape[1:])])

        added = None if added_cond_kwargs is None else {name: fill(x) for name, x in added_cond_kwargs.items()}
        (output,) = self.compiled(
            fill(z),
            fill(t),
            encoder_hidden_states=fill(encoder_hidden_states),
            added_cond_kwargs=added,
            return_dict=False,
        )
        return (output[:rows].clone(),)  # a CUDA graph writes its next output to the same place
