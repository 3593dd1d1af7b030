"""Attention control through diffusers' public processors: the layers, how to hook them, what they attend to.

Layers that a control does not touch keep the processor they had (PyTorch's scaled-dot-product attention), so they stay
bit-identical to a run without control. A hook that silently hooks nothing is the usual defect of this kind of code:
``controlled`` counts the layers against the UNet's configuration before the run and the calls after it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.models.model import Condition

Size = tuple[int, int]


class AttentionHookError(RuntimeError):
    """The layers of the UNet are not the ones its configuration promises, or a hooked layer was not called."""


@dataclass(frozen=True)
class AttentionLayer:
    """One attention layer of a UNet; ``level`` counts the halvings between the latent and its token grid."""

    name: str
    cross: bool
    level: int

    def grid(self, size: Size) -> Size:
        """Height and width of the token grid for a latent of height and width ``size``."""
        return math.ceil(size[0] / 2**self.level), math.ceil(size[1] / 2**self.level)


class AttentionControl(Protocol):
    """What may stand in for a layer's softmax(q kᵀ/√d) v. Rows are the rows of the UNet's batch."""

    def touches(self, layer: AttentionLayer) -> bool:
        """Whether ``attend`` is to be asked for this layer now."""

    def attend(self, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The layer's output (B, heads, Q, d) from query (B, heads, Q, d), key and value (B, heads, K, d)."""


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q kᵀ/√d) v without ever holding the weights."""
    return F.scaled_dot_product_attention(query, key, value)


def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """softmax(q kᵀ/√d), (B, heads, Q, K), computed in float32."""
    scores = query.float() @ key.float().transpose(-1, -2)
    return (scores / math.sqrt(query.shape[-1])).softmax(dim=-1)


# Layers of a UNet


def attention_layers(unet: Any) -> list[AttentionLayer]:
    """Every attention layer of a diffusers UNet, in the order of ``unet.attn_processors``.

    Raises AttentionHookError where the layers found are not as many as the configuration promises.
    """
    deepest = len(unet.config.down_block_types) - 1
    layers = [_layer(unet, name, deepest) for name in unet.attn_processors]
    found = Counter(layer.cross for layer in layers)
    cross, own = promised_layers(unet.config)
    if (found[True], found[False]) != (cross, own):
        raise AttentionHookError(
            f"the UNet's configuration promises {cross} cross- and {own} self-attention layers, but diffusers shows "
            f"{found[True]} and {found[False]}; attention control would miss some: use a UNet2DConditionModel without "
            "adapters and a diffusers release this version was tested with"
        )
    return layers


def _layer(unet: Any, processor_name: str, deepest: int) -> AttentionLayer:
    name = processor_name.removesuffix(".processor")
    where, index, *_ = name.split(".")
    level = deepest
    if where != "mid_block":
        level = int(index) if where == "down_blocks" else deepest - int(index)
    return AttentionLayer(name, bool(unet.get_submodule(name).is_cross_attention), level)


def promised_layers(config: Any) -> tuple[int, int]:
    """Numbers of cross- and self-attention layers that a UNet2DConditionModel's configuration implies."""
    down, up = config.down_block_types, config.up_block_types
    per_block = _each(config.layers_per_block, len(down))
    depth = _each(config.transformer_layers_per_block, len(down))
    depth_up = config.reverse_transformer_layers_per_block or depth[::-1]
    only_cross = _each(config.only_cross_attention, len(down))
    mid_only = config.mid_block_only_cross_attention
    mid_only = config.only_cross_attention is True if mid_only is None else mid_only
    blocks = [
        *zip(down, per_block, depth, only_cross, strict=True),
        (config.mid_block_type or "", 1, depth[-1], mid_only),
        *zip(up, [n + 1 for n in per_block[::-1]], depth_up, only_cross[::-1], strict=True),
    ]
    counts = [_block_layers(*block) for block in blocks]
    return sum(cross for cross, _ in counts), sum(own for _, own in counts)


def _block_layers(kind: str, layers: int, depth: int | tuple[int, ...], only_cross: bool) -> tuple[int, int]:
    if "CrossAttn" in kind:
        transformers = sum(_each(depth, layers))
        return (2 * transformers, 0) if only_cross else (transformers, transformers)
    return (0, layers) if kind.startswith("Attn") else (0, 0)


def _each(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, tuple | list) else [value] * count


# Hooks


class _Hook:
    """A diffusers attention processor that asks the control first and otherwise calls the processor it stands for."""

    def __init__(self, layer: AttentionLayer, inner: Callable[..., Tensor], control: AttentionControl) -> None:
        self.layer, self.inner, self.control, self.calls = layer, inner, control, 0

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        self.calls += 1
        if not self.control.touches(self.layer):
            return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **kwargs)
        if hidden_states.ndim != 3 or attention_mask is not None or attn.group_norm or attn.spatial_norm:
            raise AttentionHookError(
                f"{self.layer.name} is not a plain transformer attention layer; it cannot be controlled"
            )
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        query, key, value = (
            _heads(attn, x) for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        mixed = self.control.attend(self.layer, query, key, value).to(value.dtype)
        out = attn.to_out[1](attn.to_out[0](mixed.transpose(1, 2).flatten(2)))
        out = out + hidden_states if attn.residual_connection else out
        return out / attn.rescale_output_factor  # type: ignore[no-any-return]


def _heads(attn: Any, x: Tensor) -> Tensor:
    """(B, N, heads·d) to (B, heads, N, d)."""
    return x.view(*x.shape[:2], attn.heads, -1).transpose(1, 2)


@contextmanager
def controlled(unet: Any, control: AttentionControl) -> Iterator[None]:
    """Put every attention layer of ``unet`` under ``control``; the processors it had come back at the end.

    Raises AttentionHookError before the run if a layer could not be hooked, and after it if a layer was not called once
    for each evaluation of the UNet.
    """
    layers, before = attention_layers(unet), dict(unet.attn_processors)
    hooks = {name: _Hook(layer, inner, control) for layer, (name, inner) in zip(layers, before.items(), strict=True)}
    evaluations = Counter[str]()
    counter = unet.register_forward_hook(lambda *_: evaluations.update(["unet"]))
    try:
        unet.set_attn_processor(dict(hooks))
        _check_hooked(unet, hooks)
        yield
        _check_called(hooks, evaluations["unet"])
    finally:
        counter.remove()
        unet.set_attn_processor(before)


def _check_hooked(unet: Any, hooks: Mapping[str, _Hook]) -> None:
    missed = [name for name, processor in unet.attn_processors.items() if processor is not hooks.get(name)]
    if missed:
        raise AttentionHookError(
            f"{len(missed)} of {len(hooks)} attention layers were not hooked, the first is {missed[0]}"
        )


def _check_called(hooks: Mapping[str, _Hook], evaluations: int) -> None:
    missed = [name for name, hook in hooks.items() if hook.calls != evaluations]
    if missed:
        raise AttentionHookError(
            f"{len(missed)} of {len(hooks)} hooked attention layers did not run once in each of {evaluations} "
            f"evaluations, the first is {missed[0]} with {hooks[missed[0]].calls} calls; this diffusers release "
            "bypasses the processors"
        )


# Attention maps


class AttentionMaps:
    """The running mean of cross-attention weights over heads, layers and evaluations, on one grid of ``size`` (h, w).

    ``latent_size`` (h, w) tells the token grid of each layer.
    """

    def __init__(self, latent_size: Size, size: Size) -> None:
        self.latent_size, self.size, self.count = latent_size, size, 0
        self.total: Tensor | None = None

    def add(self, layer: AttentionLayer, weights: Tensor) -> None:
        """Add one layer's weights (B, heads, Q, L)."""
        rows, _, _, tokens = weights.shape
        maps = weights.float().mean(1).transpose(1, 2).reshape(rows, tokens, *layer.grid(self.latent_size))
        if maps.shape[-2:] != self.size:
            maps = F.interpolate(maps, self.size, mode="bilinear", align_corners=False)
        self.total = maps if self.total is None else self.total + maps
        self.count += 1

    def average(self) -> Tensor:
        """(B, L, h, w) float32: the share of each position's attention that each token gets; sums to 1 over L."""
        if self.total is None:
            raise AttentionHookError("no attention map was recorded; record within `controlled`")
        return self.total / self.count


class RecordAttention:
    """Controls nothing, records every cross-attention layer of at most ``max_tokens`` positions.

    The maps stand in ``maps``, on the latent's grid, halved until it has no more than ``max_tokens`` positions.
    """

    def __init__(self, latent_size: Size, max_tokens: int = 32**2) -> None:
        self.max_tokens = max_tokens
        size = latent_size
        while math.prod(size) > max_tokens:
            size = (math.ceil(size[0] / 2), math.ceil(size[1] / 2))
        self.maps = AttentionMaps(latent_size, size)

    def touches(self, layer: AttentionLayer) -> bool:
        """Cross-attention on a grid small enough to keep."""
        return layer.cross and math.prod(layer.grid(self.maps.latent_size)) <= self.max_tokens

    def attend(self, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Plain attention; the weights are added to the maps."""
        weights = attention_weights(query, key)
        self.maps.add(layer, weights)
        return weights.to(value.dtype) @ value


class PlacedPrompts:
    """Cross-attention to K prompts at once, weighted by place: haze is a map, and so are the words for it.

        out(x) = Σₖ wₖ(x) Attention(q(x), promptₖ),    Σₖ wₖ(x) = 1

    The UNet gets the prompts' embeddings joined along the token axis, (B, K·L, D), see ``join_prompts``. With a weight of 1
    for one prompt everywhere it is plain conditioning on that prompt. The paper's A.3 (cross-attention weighted by a dark
    channel or a depth map) is the case of two prompts, the null text and ``haze``; the paper gives no formula for it.

    ``weights``: (N, K, H, W) in [0, 1] of N pictures, any size. ``rows`` (B,): which picture each row of the UNet's batch
    belongs to; None: the rows are the pictures, in order, and repeat if there are more.
    """

    def __init__(self, weights: Tensor, latent_size: Size) -> None:
        if weights.ndim != 4 or not bool(((weights >= 0) & (weights <= 1)).all()):
            raise ValueError(f"weights must be (N, K, H, W) with values from 0 to 1, not {tuple(weights.shape)}")
        self.weights, self.latent_size = weights, latent_size
        self.rows: Tensor | None = None
        self._grids: dict[Size, Tensor] = {}

    def touches(self, layer: AttentionLayer) -> bool:
        """All cross-attention."""
        return layer.cross

    def attend(self, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The weighted mean of the attention to each prompt's tokens."""
        weights = self._on_grid(layer.grid(self.latent_size)).to(query)
        if self.rows is not None:
            weights = weights[self.rows.to(weights.device)]
        weights = weights.repeat(len(query) // len(weights), 1, 1, 1)[:, None]  # (B, 1, Q, K, 1)
        scores = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).unflatten(-1, (weights.shape[3], -1))
        mixed: Tensor = (weights * scores.float().softmax(-1).to(weights)).flatten(-2) @ value
        return mixed

    def _on_grid(self, grid: Size) -> Tensor:
        """The weights at the positions of a layer, (N, Q, K, 1)."""
        if grid not in self._grids:
            placed = F.interpolate(self.weights.float(), grid, mode="bilinear", antialias=True)
            self._grids[grid] = placed.flatten(2).transpose(1, 2).unsqueeze(-1)
        return self._grids[grid]


def join_prompts(prompts: Condition) -> Condition:
    """All K rows as one, embeddings (1, K·L, D), for ``PlacedPrompts``; all else is the first's."""
    return replace(prompts.rows(torch.zeros(1, dtype=torch.long)), embeddings=prompts.embeddings.flatten(0, 1)[None])
