"""A UNet compiled for the one batch shape that the engine mostly asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

ATTENTION = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""Fused attention in the order in which it is tried."""


TAIL = 4
"""A compiled call of n rows costs no more than an uncompiled one of n / 4: compiling gains less than fourfold."""


@contextmanager
def fixed_shapes(on: bool = True) -> Iterator[None]:
    """What pays while all calls are of few shapes: cuDNN times its convolutions once for each, and its attention is used."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = on
    try:
        with sdpa_kernel(ATTENTION, set_priority=True):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


class Compiled(nn.Module):
    """A UNet compiled by torch.compile for as few shapes as can be.

    Rows are filled up to the largest power of two seen so far for pictures of their size, and cut off again: at the end of a group
    some are computed in vain, which costs less than the minute or more of compiling for another number of rows. Fewer
    than a ``TAIL``-th of it go to the UNet as it is (by reading, not measured on a GPU). A number that did not fit into
    memory is forgotten. On CUDA the calls are then recorded as a CUDA graph.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.on_gpu = next(unet.parameters()).is_cuda
        self.compiled = torch.compile(unet, dynamic=False, mode="reduce-overhead" if self.on_gpu else "default")
        self.rows: dict[torch.Size, int] = {}

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
        rows, size = len(z), z.shape[1:]
        if rows * TAIL < self.rows.get(size, 1):
            tail: tuple[Tensor] = self.unet(
                z,
                t,
                encoder_hidden_states=encoder_hidden_states,
                added_cond_kwargs=added_cond_kwargs,
                return_dict=False,
            )
            return tail
        filled = max(1 << (rows - 1).bit_length(), self.rows.pop(size, 1))

        def fill(x: Tensor) -> Tensor:
            return x if filled == rows else torch.cat([x, x[-1:].expand(filled - rows, *x.shape[1:])])

        added = None if added_cond_kwargs is None else {name: fill(x) for name, x in added_cond_kwargs.items()}
        with fixed_shapes(self.on_gpu):
            (output,) = self.compiled(
                fill(z),
                fill(t),
                encoder_hidden_states=fill(encoder_hidden_states),
                added_cond_kwargs=added,
                return_dict=False,
            )
        self.rows[size] = filled  # only now: it did fit
        return (output[:rows].clone(),)  # a CUDA graph writes its next output to the same place
