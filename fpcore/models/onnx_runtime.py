"""The built-in models' UNets by ONNX Runtime on a processor: the same numbers to about 4e-7, in less time.

A graph without weights is shipped for each (``fpcore.builtin.export_graphs``); the weights are those of the loaded UNet.
What the graph does not hold goes to PyTorch: attention under control, gradients, other shapes.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

INPUTS = ("z", "t", "words")


def is_installed() -> bool:
    """Whether there is an ONNX Runtime."""
    return find_spec("onnxruntime") is not None


class OnnxUNet(nn.Module):
    """A UNet2DConditionModel whose plain evaluations are ONNX Runtime's.

    Args:
        unet: in float32 on the processor, with PyTorch's own attention.
        graph: of that UNet, its parameters named as there.
        shape: (C, h, w) of the latents that the graph was made for.
        words: (L, D) of the text.
    """

    def __init__(self, unet: nn.Module, graph: Path, shape: tuple[int, ...], words: tuple[int, ...]) -> None:
        super().__init__()
        self.unet, self.shape, self.words = unet, shape, words
        self.session = _session(graph.read_bytes(), unet)
        self.is_plain = True

    def __getattr__(self, name: str) -> Any:
        """The UNet's own attributes: dtype, config, attention processors."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("unet"), name)

    def set_attn_processor(self, processor: Any) -> None:
        """As diffusers' own; under any but its usual processor the evaluations are PyTorch's."""
        unet: Any = self.unet
        unet.set_attn_processor(processor)
        self.is_plain = all(type(each).__name__ == "AttnProcessor2_0" for each in unet.attn_processors.values())

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: Any = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """As the UNet's own, for rows (B, …)."""
        words = encoder_hidden_states
        known = tuple(z.shape[1:]) == self.shape and tuple(words.shape[1:]) == self.words and t.ndim == 1
        if not (self.is_plain and known) or z.requires_grad or words.requires_grad:
            answer: tuple[Tensor] = self.unet(
                z, t, encoder_hidden_states=words, added_cond_kwargs=added_cond_kwargs, return_dict=False
            )
            return answer
        feed = {name: x.contiguous().numpy() for name, x in zip(INPUTS, (z, t, words), strict=True)}
        return (torch.from_numpy(self.session.run(None, feed)[0]),)


def _session(graph: bytes, unet: nn.Module) -> Any:
    """A session of a graph without weights over the parameters of ``unet``, on as many threads as PyTorch has."""
    import onnxruntime as ort  # here: an optional library

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    parameters = {name: ort.OrtValue.ortvalue_from_numpy(x.detach().numpy()) for name, x in unet.named_parameters()}
    options.add_external_initializers([*parameters], [*parameters.values()])
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
