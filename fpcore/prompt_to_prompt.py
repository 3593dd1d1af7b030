"""Prompt-to-Prompt control of many pairs at once: cross- and self-attention replacement, re-weighting, local blending.

The UNet's batch ends with the conditional rows of P sources and, after them, of their P targets. Unconditional rows
before them are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.attention import AttentionLayer, AttentionMaps, RecordAttention, Size, attention, attention_weights
from fpcore.guidance import GUIDANCE_MODES, GuidanceMode
from fpcore.token_map import TOKEN_MODES, TokenMap, TokenMode


@dataclass(frozen=True)
class EditSettings:
    """How a batch of pairs is edited; the defaults are PIE-Bench's.

    ``guidance``, ``guidance_scale``: see ``fpcore.guidance``. ``tokens``: see ``fpcore.token_map``.
    """

    guidance: GuidanceMode = "none"
    guidance_scale: float = 7.5
    tokens: TokenMode = "refine"
    cross_replace: float = 0.4  # share of the steps, from the first on
    self_replace: float = 0.6
    self_tokens: int = 32**2  # self-attention is replaced on grids of at most so many positions
    blend_start: float = 0.2  # share of the steps without local blending
    blend_threshold: float = 0.3  # of the attention map's maximum
    amplify: float = 2.0  # re-weighting of the target's blend word
    record_maps: bool = False

    def __post_init__(self) -> None:
        if self.guidance not in GUIDANCE_MODES or self.tokens not in TOKEN_MODES:
            raise ValueError(
                f"guidance must be one of {', '.join(GUIDANCE_MODES)} and tokens one of {', '.join(TOKEN_MODES)}, "
                f"not {self.guidance!r} and {self.tokens!r}"
            )
        for name in ("cross_replace", "self_replace", "blend_start", "blend_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share and must lie between 0 and 1, not {getattr(self, name)}")


class PromptToPrompt:
    """The attention control of one edit; ``begin`` tells it the sampling step."""

    def __init__(
        self,
        layers: Sequence[AttentionLayer],
        tokens: TokenMap,
        settings: EditSettings,
        steps: int,
        latent_size: Size,
        regions: Tensor | None = None,
    ) -> None:
        """``regions`` (P, 1, h, w) bool: latent positions an edit may change; None for all."""
        self.tokens, self.settings, self.latent_size, self.regions = tokens, settings, latent_size, regions
        self.step = 0
        self.cross_steps = round(settings.cross_replace * steps)
        self.self_steps = round(settings.self_replace * steps)
        self.blend_from = round(settings.blend_start * steps)
        self.blended = (tokens.blend_source + tokens.blend_target).sum(-1) > 0  # (P,)
        self.blend_level = _blend_level(layers)
        quarter = AttentionLayer("", cross=True, level=self.blend_level).grid(latent_size)
        self.blend_maps = AttentionMaps(latent_size, quarter) if bool(self.blended.any()) else None
        self.recorder = RecordAttention(latent_size) if settings.record_maps else None

    def begin(self, step: int) -> None:
        """Announce the sampling step, counted from 0 at z_T."""
        self.step = step

    # Attention

    def touches(self, layer: AttentionLayer) -> bool:
        """Whether this layer is replaced or recorded in this step."""
        if layer.cross:
            return self.step < self.cross_steps or self._blends(layer) or self._records(layer)
        return self.step < self.self_steps and prod(layer.grid(self.latent_size)) <= self.settings.self_tokens

    def attend(self, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention with the targets' weights edited; see the protocol for shapes."""
        return (self._cross if layer.cross else self._own)(layer, query, key, value)

    def _own(self, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The source's self-attention weights on the target's values: its queries and keys are the source's."""
        pairs = len(self.tokens)
        query, key = (torch.cat([x[:-pairs], x[-2 * pairs : -pairs]]) for x in (query, key))
        return attention(query, key, value)

    def _cross(self, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        free = len(query) - 2 * len(self.tokens)
        source, target = attention_weights(query[free:], key[free:]).chunk(2)
        if self.step < self.cross_steps:
            target = self.tokens.edited(source, target)
        weights = torch.cat([source, target])
        if self._blends(layer) and self.blend_maps is not None:
            self.blend_maps.add(layer, weights)
        if self._records(layer) and self.recorder is not None:
            self.recorder.maps.add(layer, weights)
        steered = weights.to(value.dtype) @ value[free:]
        return torch.cat([attention(query[:free], key[:free], value[:free]), steered]) if free else steered

    def _blends(self, layer: AttentionLayer) -> bool:
        return self.blend_maps is not None and layer.level == self.blend_level

    def _records(self, layer: AttentionLayer) -> bool:
        return self.recorder is not None and self.recorder.touches(layer)

    # Latents

    def blend(self, source: Tensor, target: Tensor) -> Tensor:
        """The targets (P, C, h, w) after the step: outside what the edit is about they are the sources."""
        mask = torch.ones_like(target[:, :1], dtype=torch.bool)
        if self.blend_maps is not None and self.step >= self.blend_from:
            mask = self._word_mask() | ~self.blended.view(-1, 1, 1, 1)
        if self.regions is not None:
            mask = mask & self.regions
        return torch.where(mask, target, source)

    def _word_mask(self) -> Tensor:
        """(P, 1, h, w): where the attention to either blend word, averaged so far, passes the threshold."""
        assert self.blend_maps is not None
        source, target = self.blend_maps.average().chunk(2)
        return self._passes(source, self.tokens.blend_source) | self._passes(target, self.tokens.blend_target)

    def _passes(self, maps: Tensor, words: Tensor) -> Tensor:
        heat = (maps * words[:, :, None, None]).sum(1, keepdim=True)
        heat = F.interpolate(F.max_pool2d(heat, 3, stride=1, padding=1), self.latent_size)
        peak = heat.amax((2, 3), keepdim=True)
        return heat > self.settings.blend_threshold * peak


def _blend_level(layers: Sequence[AttentionLayer]) -> int:
    """The cross-attention level nearest to a quarter of the latent's size (16² of 64² in Stable Diffusion 1)."""
    return min((abs(layer.level - 2), layer.level) for layer in layers if layer.cross)[1]
