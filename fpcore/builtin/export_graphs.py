"""Export the built-in models' UNets as ONNX graphs without weights, for ``fpcore.models.onnx_runtime``.

    pip install 'fixpoint-diffusion[onnx]' onnx onnxscript
    python -m fpcore.builtin.export_graphs

Needed when the architecture of a model, not its weights, has changed. A graph has some 200 kB.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fpcore.models.load import graph_of, load_model
from fpcore.models.onnx_runtime import INPUTS

MODELS = ("haze", "scenes")


class _Plain(nn.Module):
    """A UNet under its text, by position."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, z: Tensor, t: Tensor, words: Tensor) -> Tensor:
        output: Tensor = self.unet(z, t, encoder_hidden_states=words, return_dict=False)[0]
        return output


def export(name: str) -> bytes:
    """The graph of ``builtin:name`` for any number of rows, its parameters named as the UNet's and left out."""
    import onnx

    model = load_model(f"builtin:{name}", device="cpu", onnx=False)
    z = torch.zeros(2, *model.latent_shape(*model.image_size))
    rows = torch.export.Dim("rows", min=1, max=1 << 16)
    made = torch.onnx.export(
        _Plain(model.unet).eval(),
        (z, torch.tensor([3, 500]), model.embed(["", ""]).embeddings),
        dynamo=True,
        optimize=False,  # ONNX Runtime does it, and this would fold the parameters into others
        dynamic_shapes=({0: rows},) * 3,
        input_names=list(INPUTS),
        output_names=["output"],
        verbose=False,
    )
    assert made is not None
    graph: Any = made.model_proto
    _leave_out_weights(graph, onnx.TensorProto.EXTERNAL)
    for part in (graph, graph.graph, *graph.graph.node):
        part.ClearField("metadata_props")
    del graph.graph.value_info[:]
    data: bytes = graph.SerializeToString(deterministic=True)
    return data


def _leave_out_weights(graph: Any, external: int) -> None:
    """Say of each parameter that it is kept elsewhere, under the name that it has in the UNet."""
    names = {tensor.name: tensor.name.removeprefix("unet.") for tensor in graph.graph.initializer}
    for tensor in graph.graph.initializer:
        length, tensor.name = len(tensor.raw_data), names[tensor.name]
        tensor.ClearField("raw_data")
        tensor.data_location = external
        for key, value in (("location", "weights"), ("offset", "0"), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
    for node in graph.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def main() -> None:
    """Entry point."""
    for name in MODELS:
        path = graph_of(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(export(name))
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
