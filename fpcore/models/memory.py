"""Where components lie, how attention is computed: the settings that trade speed for memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

Attention = Literal["sdpa", "eager", "sliced"]


def set_attention(unet: Any, attention: Attention) -> None:
    """Choose the UNet's attention: "sdpa" is diffusers' default, "sliced" computes one head at a time.

    Raises:
        ValueError: an unknown name.
    """
    if attention == "eager":
        unet.set_attn_processor(AttnProcessor())
    elif attention == "sliced":
        unet.set_attention_slice("max")
    elif attention != "sdpa":
        raise ValueError(f"unknown attention {attention!r}; choose sdpa, eager or sliced")


def place(components: Sequence[nn.Module], device: torch.device, cpu_offload: bool) -> None:
    """Freeze the components and put them on the device, or have each brought there only while it computes."""
    for module in components:
        module.requires_grad_(False).eval()
        if not cpu_offload:
            module.to(device)
        if device.type == "cuda":
            _channels_last(module)
    with_weights = [module for module in components if any(True for _ in module.parameters())]
    if cpu_offload:
        for module in with_weights:
            others = [other for other in with_weights if other is not module]
            add_hook_to_module(module, OneAtATime(device, others))


def _channels_last(module: Any) -> None:
    """Lay half-precision convolutions out as tensor cores take them."""
    if next(module.parameters(), torch.empty(0)).dtype in (torch.float16, torch.bfloat16):
        module.to(memory_format=torch.channels_last)


class OneAtATime(ModelHook):  # type: ignore[misc]
    """Before a component computes, send the others to main memory and bring it to the device.

    accelerate's own ``cpu_offload_with_hook`` sends away one fixed predecessor, which suits a pipeline that runs its
    components in one order; a batch job goes around encode, embed, predict, decode again and again.
    """

    def __init__(self, device: torch.device, others: Sequence[nn.Module]) -> None:
        self.device, self.others = device, others

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Called by accelerate with the arguments of the call to come."""
        if next(module.parameters()).device != self.device:
            for other in self.others:
                other.to("cpu")
            module.to(self.device)
        return args, kwargs
