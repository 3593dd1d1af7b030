"""Prompt-to-Prompt control of many pairs at once: cross- and self-attention replacement, re-weighting, local blending.

The UNet's batch ends with the conditional rows of P sources and, after them, of their P targets. Unconditional rows
before them are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.editing.attention import AttentionLayer, AttentionMaps, RecordAttention, Size, attention, attention_weights
from fpcore.editing.settings import EditSettings, per_pair
from fpcore.editing.token_alignment import TokenAlignment

BLEND_POSITIONS = 26**2
"""Local blending reads the finest cross-attention of at most so many positions: 16² of Stable Diffusion 1, 24² of 2."""


class PromptToPrompt:
    """The attention control of one edit; ``begin`` tells it the sampling step."""

    def __init__(
        self,
        layers: Sequence[AttentionLayer],
        tokens: TokenAlignment,
        settings: EditSettings | Sequence[EditSettings],
        steps: int,
        latent_size: Size,
        regions: Tensor | None = None,
    ) -> None:
        """``settings``: one for all pairs, or one a pair. ``regions`` (P, 1, h, w) bool: latent positions an edit may
        change; None for all."""
        each = per_pair(settings, len(tokens))
        self.tokens, self.latent_size, self.regions = tokens, latent_size, regions
        self.self_tokens = each[0].self_tokens
        self.cross_steps = [round(s.cross_replace * steps) for s in each]
        self.self_steps = [round(s.self_replace * steps) for s in each]
        self.blend_from = [round(s.blend_start * steps) for s in each]
        self.thresholds = tokens.scale.new_tensor([s.blend_threshold for s in each]).view(-1, 1, 1, 1)
        self.blended = ((tokens.blend_source + tokens.blend_target).sum(-1) > 0).tolist()  # (P,)
        self.blend_level = _blend_level(layers, latent_size)
        grid = AttentionLayer("", cross=True, level=self.blend_level).grid(latent_size)
        self.blend_maps = AttentionMaps(latent_size, grid) if any(self.blended) else None
        self.recorder = RecordAttention(latent_size) if each[0].record_maps else None
        self.begin(0)

    def begin(self, step: int) -> None:
        """Announce the sampling step, counted from 0 at z_T."""
        self.step = step
        self.crossing, self.owning = ([step < last for last in steps] for steps in (self.cross_steps, self.self_steps))
        self.blending = [b and step >= first for b, first in zip(self.blended, self.blend_from, strict=True)]

    # Attention

    def touches(self, layer: AttentionLayer) -> bool:
        """Whether this layer is replaced or recorded in this step."""
        if layer.cross:
            return any(self.crossing) or self._blends(layer) or self._records(layer)
        return any(self.owning) and prod(layer.grid(self.latent_size)) <= self.self_tokens

    def attend(self, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention with the targets' weights edited; see the protocol for shapes."""
        return (self._cross if layer.cross else self._own)(layer, query, key, value)

    def _own(self, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The source's self-attention weights on the target's values: its queries and keys are the source's."""
        pairs = len(self.tokens)
        query, key = (
            torch.cat([x[:-pairs], self._where(self.owning, x[-2 * pairs : -pairs], x[-pairs:])]) for x in (query, key)
        )
        return attention(query, key, value)

    @staticmethod
    def _where(pairs: list[bool], chosen: Tensor, otherwise: Tensor) -> Tensor:
        """Rows (P, …) of ``chosen`` for the pairs marked, of ``otherwise`` for the rest."""
        if all(pairs):
            return chosen
        return torch.where(torch.tensor(pairs, device=chosen.device).view(-1, 1, 1, 1), chosen, otherwise)

    def _cross(self, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        free = len(query) - 2 * len(self.tokens)
        source, target = attention_weights(query[free:], key[free:]).chunk(2)
        if any(self.crossing):
            target = self._where(self.crossing, self.tokens.edited(source, target), target)
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
        if any(self.blending):
            mask = self._where(self.blending, self._word_mask(), mask)
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
        return heat > self.thresholds * peak


def _blend_level(layers: Sequence[AttentionLayer], latent_size: Size) -> int:
    """The finest cross-attention level of at most ``BLEND_POSITIONS``, or the coarsest there is."""
    levels = sorted({layer.level: layer for layer in layers if layer.cross}.items())
    small = [level for level, layer in levels if prod(layer.grid(latent_size)) <= BLEND_POSITIONS]
    return min(small, default=levels[-1][0])
