"""Text-driven editing: Prompt-to-Prompt from the fixed points of an inversion, many pairs in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from fpcore.editing.attention import attention_layers, controlled
from fpcore.editing.guidance import ConditionalPredict, Guidance, direction, prepare, reverse
from fpcore.editing.prompt_to_prompt import PromptToPrompt
from fpcore.editing.settings import EditSettings, per_pair
from fpcore.editing.token_alignment import TokenAlignment, align_tokens
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Condition, Model


@dataclass(frozen=True)
class EditResult:
    """P edited pairs.

    ``source``, ``target`` (P, C, h, w): z_0 of either branch. ``finite`` (P,): False where a branch is not finite, and
    its latents mean nothing. ``nfe`` (P,): network rows evaluated, null-text optimisation included (its backward passes
    are not counted). ``source_maps``, ``target_maps`` (P, L, h', w') float32 if recorded: each token's share of the
    cross-attention, mean over heads, layers and steps.
    """

    source: Tensor
    target: Tensor
    finite: Tensor
    nfe: Tensor
    source_maps: Tensor | None = None
    target_maps: Tensor | None = None

    @staticmethod
    def cat(results: Sequence[EditResult]) -> EditResult:
        """The pairs of several results of one size, one after the other."""
        columns = [[getattr(r, f.name) for r in results] for f in fields(EditResult)]
        return EditResult(*(None if c[0] is None else torch.cat(c) for c in columns))  # type: ignore[arg-type]


def pair_maps(
    model: Model,
    sources: Sequence[str],
    targets: Sequence[str],
    settings: EditSettings | Sequence[EditSettings],
    blend_words: Sequence[tuple[str, str] | None] | None = None,
) -> TokenAlignment:
    """The token alignments of P pairs; call it on one pair to learn before any work whether it can be edited.

    Raises ValueError as ``fpcore.editing.token_alignment.token_map`` does.
    """
    words = blend_words or [None] * len(sources)
    length, tokenizer = model.prompt_length(), model.tokenizers[0]
    return TokenAlignment.cat(
        [
            align_tokens(tokenizer, length, source, target, s.tokens, pair, s.amplify, s.reweight, s.padding)
            for source, target, pair, s in zip(sources, targets, words, per_pair(settings, len(sources)), strict=True)
        ]
    )


def edit(
    model: Model,
    schedule: Schedule,
    latents: Tensor,
    sources: Sequence[str],
    targets: Sequence[str],
    settings: EditSettings | Sequence[EditSettings],
    *,
    trajectory: Tensor | None = None,
    blend_words: Sequence[tuple[str, str] | None] | None = None,
    regions: Tensor | None = None,
) -> EditResult:
    """Regenerate P inverted images under their source prompts and, steered by those, under their target prompts.

    Args:
        latents: (P, C, h, w) z_T, inverted under ``sources`` with this ``schedule``.
        settings: one for all pairs, or one a pair.
        trajectory: (P, N + 1, C, h, w) the inverted path, z_0 first; needed by nti and direct-inversion.
        blend_words: per pair the word of either prompt that the edit is about, or None for no local blending.
        regions: (P, 1, h, w) bool, latent positions the edit may change.

    All pairs go through the network together, so P sets the batch shape. Raises ValueError for pairs that have no token
    map and for a missing trajectory, before any evaluation.
    """
    device = latents.device
    tokens = pair_maps(model, sources, targets, settings, blend_words).to(device)
    source, target, empty = (model.embed(list(p)) for p in (sources, targets, [""] * len(sources)))
    shared = per_pair(settings, len(sources))[0]
    prepared = prepare(shared.guidance, shared.guidance_scale, model.predict, schedule, source, empty, trajectory)
    size = (latents.shape[-2], latents.shape[-1])
    control = PromptToPrompt(attention_layers(model.unet), tokens, settings, len(schedule), size, regions)
    with controlled(model.unet, control):
        pair = sample_pairs(
            model.predict, schedule, latents, Condition.cat([source, target]), prepared.guidance, control
        )
    finite = torch.stack([z.isfinite().flatten(1).all(1) for z in pair]).all(0)
    nfe = prepared.nfe + 2 * prepared.guidance.rows * len(schedule)
    maps = control.recorder.maps.average().chunk(2) if control.recorder else (None, None)
    return EditResult(*pair, finite, nfe, *maps)


class BranchControl(Protocol):
    """What steers a pair of branches between their steps."""

    def begin(self, step: int) -> None:
        """Announce the sampling step, counted from 0 at z_T."""

    def blend(self, source: Tensor, target: Tensor) -> Tensor:
        """The targets (P, C, h, w) after the step."""


@torch.no_grad()
def sample_pairs(
    predict: ConditionalPredict,
    schedule: Schedule,
    latents: Tensor,
    condition: Condition,
    guidance: Guidance,
    control: BranchControl,
) -> tuple[Tensor, Tensor]:
    """Sample the source and the target branch side by side from z_T (P, C, h, w); ``condition`` holds both, 2P rows."""
    z = torch.cat([latents, latents])
    for step in range(len(schedule)):
        control.begin(step)
        d = direction(predict, schedule, step, z, condition, guidance)
        source, target = reverse(schedule, step, z, d).chunk(2)
        source = guidance.correct(step, source)
        z = torch.cat([source, control.blend(source, target)])
    source, target = z.chunk(2)
    return source, target
