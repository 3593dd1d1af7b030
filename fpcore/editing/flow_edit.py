"""Text-driven editing with rectified-flow models: the inverted picture sampled under other words.

Prompt-to-Prompt steers the cross-attention of a UNet; the transformers of SD 3 and FLUX have none, text and picture attend
to each other jointly. What keeps the layout here is the inverted noise, RF-Inversion's pull to the picture, the
inverted path (``direct-inversion``) or a region.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fpcore.editing.edit import EditResult, sample_pairs
from fpcore.editing.guidance import Guidance, prepare
from fpcore.editing.settings import EditSettings, per_pair
from fpcore.inversion.flow_samplers import FlowSampler, flow_evaluations, sample_flow
from fpcore.inversion.invert import Predict
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Condition, Model


class Regions:
    """The control of an edit that leaves attention alone: outside ``regions`` (P, 1, h, w) targets are their sources."""

    def __init__(self, regions: Tensor | None) -> None:
        self.regions = regions

    def begin(self, step: int) -> None:
        """Nothing depends on the step."""

    def blend(self, source: Tensor, target: Tensor) -> Tensor:
        """The targets (P, C, h, w) after the step."""
        return target if self.regions is None else torch.where(self.regions, target, source)


def edit_flow(
    model: Model,
    schedule: Schedule,
    latents: Tensor,
    z0: Tensor,
    sources: Sequence[str],
    targets: Sequence[str],
    settings: EditSettings | Sequence[EditSettings],
    *,
    sampler: FlowSampler | None = None,
    trajectory: Tensor | None = None,
    regions: Tensor | None = None,
) -> EditResult:
    """Regenerate P inverted pictures under their source prompts and under their target prompts.

    Args:
        latents: (P, C, h, w) z_T, inverted under ``sources`` with this ``schedule`` and ``sampler``.
        z0: (P, C, h, w) the pictures' own latents.
        settings: of these, guidance mode and scale count. A guidance-distilled model is told the scale.
        sampler: None for Euler steps from a fixed-point inversion.
        trajectory: (P, N + 1, C, h, w) the inverted path; needed by nti and direct-inversion.
        regions: (P, 1, h, w) bool, latent positions the edit may change.

    Raises ValueError for a missing trajectory and for guidance modes that a sampler or model has no use for.
    """
    shared = per_pair(settings, len(sources))[0]
    source, target, empty = (model.embed(list(p)) for p in (sources, targets, [""] * len(sources)))
    scale = 1.0 if model.guidance_distilled else shared.guidance_scale
    source, target = source.guided(1.0), target.guided(shared.guidance_scale)
    if sampler is not None:
        if shared.guidance != "none":
            raise ValueError(f"the sampler {sampler} goes with guidance none, not {shared.guidance}")
        return _sampled(model, schedule, latents, z0, (source, target, empty), scale, sampler, regions)
    prepared = prepare(shared.guidance, scale, model.predict, schedule, source, empty, trajectory)
    both = Condition.cat([source, target])
    pair = sample_pairs(model.predict, schedule, latents, both, prepared.guidance, Regions(regions))
    return _result(pair, prepared.nfe + 2 * prepared.guidance.rows * len(schedule))


def _sampled(
    model: Model,
    schedule: Schedule,
    latents: Tensor,
    z0: Tensor,
    conditions: tuple[Condition, Condition, Condition],
    scale: float,
    sampler: FlowSampler,
    regions: Tensor | None,
) -> EditResult:
    """Both branches one after the other: a sampler's steps hold more than a state."""
    source, target, empty = conditions
    guidance = Guidance(scale, (empty,))
    kept = sample_flow(sampler, guided(model, source, Guidance(1.0)), schedule, latents, z0, batch_size=len(latents))
    changed = sample_flow(sampler, guided(model, target, guidance), schedule, latents, z0, batch_size=len(latents))
    rows = 1 + guidance.rows
    spent = torch.full((len(latents),), rows * flow_evaluations(sampler, len(schedule)))
    return _result((kept, Regions(regions).blend(kept, changed)), spent)


def guided(model: Model, condition: Condition, guidance: Guidance) -> Predict:
    """The network under ``condition`` (M rows) with classifier-free guidance, as the samplers call it."""

    def predict(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        chosen = condition.rows(image)
        if guidance.scale == 1:
            return model.predict(z, t, chosen)
        both = Condition.cat([guidance.null(0, len(condition)).rows(image), chosen])
        null, conditional = model.predict(torch.cat([z, z]), torch.cat([t, t]), both).chunk(2)
        return null + guidance.scale * (conditional - null)

    return predict


def _result(pair: tuple[Tensor, Tensor], nfe: Tensor) -> EditResult:
    finite = torch.stack([z.isfinite().flatten(1).all(1) for z in pair]).all(0)
    return EditResult(*pair, finite, nfe)
