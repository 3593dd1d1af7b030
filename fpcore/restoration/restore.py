"""Restoration by fixed points: invert under the words of the damage, regenerate under the words of the whole.

The regeneration is held to what the photograph says: each of its states is the fixed point of "project after denoise"
(``fpcore.inversion.sample.sample_consistently``), the projection being that of a ``Degradation``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.inversion.invert import Inversion, Predict, invert
from fpcore.inversion.methods import Method, method
from fpcore.inversion.oom import OOMBackoff
from fpcore.inversion.sample import Descent, Project, sample_consistently
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model
from fpcore.restoration.degradation import Degradation, Hole
from fpcore.restoration.tiles import in_tiles
from fpcore.stopwatch import Stopwatch


@dataclass(frozen=True)
class RestoreSettings:
    """How pictures are restored.

    ``noise_level``: how far a picture is inverted, as σ̃ = s/a: small keeps its large shapes, infinite only what is
    projected back.
    """

    method: Method = method("certified")
    num_inference_steps: int = 25
    noise_level: float = float("inf")
    batch_size: int = 8


@dataclass(frozen=True)
class Restored:
    """Of M pictures: ``result`` (M, 3, H, W) in [0, 1], which says what the photographs say; ``start``, what was inverted.

    ``inversion`` and ``sampling`` hold every step's records; ``rows``: rows of a batch where memory allowed fewer.
    """

    start: Tensor
    result: Tensor
    inversion: Inversion
    sampling: Inversion
    schedule: Schedule
    rows: int | None
    seconds: dict[str, float]

    @property
    def descent(self) -> Schedule:
        """The schedule that the steps of ``sampling`` belong to."""
        return Descent.of(self.schedule)

    @property
    def nfe(self) -> list[int]:
        """Network rows evaluated for each picture; a picture in tiles counts as one."""
        return [up + down for up, down in zip(self.inversion.nfe, self.sampling.nfe, strict=True)]


def up_to(schedule: Schedule, noise_level: float) -> Schedule:
    """The steps of ``schedule`` that lead no higher than σ̃ = ``noise_level``, at least two."""
    reached = int((schedule.noise / schedule.signal <= noise_level).sum())
    return schedule.take(torch.arange(max(2, min(reached, len(schedule)))))


def restore(
    model: Model,
    damage: Degradation,
    prompts: Sequence[tuple[str, str]],
    settings: RestoreSettings,
    *,
    seeds: list[int] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Restored:
    """Restore the M photographs of which ``damage`` holds what is known.

    ``prompts``: for each, the words of the damage and the words of the whole.
    Their pictures may be larger than the model's own: then it is asked in overlapping tiles, whose estimates are blended
    before each projection, so that neighbours share one fixed point. Raises ValueError for a model of rectified flow, and
    for an inpainting UNet that is asked for anything else.
    """
    watch, start = Stopwatch(), damage.start()
    latents = model.latents_of(start)
    whole = Schedule.from_scheduler(model.scheduler_for(latents), settings.num_inference_steps)
    schedule = up_to(whole, settings.noise_level)
    watch("encode")
    predicts = [_predict(model, damage, list(words), latents) for words in zip(*prompts, strict=True)]
    inversion = invert(
        predicts[0],
        schedule,
        latents,
        settings.method,
        batch_size=settings.batch_size,
        seeds=seeds,
        should_stop=should_stop,
    )
    watch("invert")
    sampling = sample_consistently(
        predicts[1], schedule, inversion.latents, settings.method, _projection(model, damage),
        batch_size=settings.batch_size, seeds=seeds, should_stop=should_stop,
    )  # fmt: skip
    watch("sample")
    result = damage.in_gamut(model.pictures_of(sampling.latents))
    watch("decode")
    rows = [p.rows for p in predicts if p.rows is not None]
    return Restored(start, result, inversion, sampling, schedule, min(rows, default=None), watch.seconds)


def _projection(model: Model, damage: Degradation) -> Project:
    """P on latents, by way of the decoded estimate: x0 + E(P(D(x0))) − E(D(x0)), whose codec errors cancel.

    Where the codec loses nothing this is P itself.
    """

    def project(x0: Tensor, rows: Tensor) -> Tensor:
        known, picture = damage.rows(rows.cpu()), model.pictures_of(x0)
        both = model.latents_of(torch.cat([known.project(picture), picture])).to(x0)
        return x0 + both[: len(x0)] - both[len(x0) :]

    return project


def _predict(model: Model, damage: Degradation, prompts: list[str], latents: Tensor) -> OOMBackoff:
    """The network under a prompt for each picture, in tiles where the pictures are larger than the model's own."""
    condition, extra = model.embed(prompts), _inpainting_channels(model, damage)

    def told(z: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        assert extra is not None
        return model.predict(torch.cat([z, extra[rows]], 1), t, condition.rows(rows))

    chosen: Predict = model.under(condition) if extra is None else told
    side = _tile_side(model)
    if extra is None and max(latents.shape[-2:]) > 2 * side:
        chosen = in_tiles(chosen, side)
    return OOMBackoff(chosen)


def _tile_side(model: Model) -> int:
    """Latent positions along a side of the model's own pictures."""
    return max(model.image_size) // model.scale_factor


def _inpainting_channels(model: Model, damage: Degradation) -> Tensor | None:
    """What a nine-channel UNet is told beside z (M, 5, h, w): the hole, and the latents of the picture with the hole grey."""
    if model.is_flow or model.unet.config.in_channels == model.unet.config.out_channels:
        return None
    if not isinstance(damage, Hole):
        raise ValueError("an inpainting model fills holes and does nothing else: choose the base model for this task")
    masked = model.latents_of(torch.where(damage.hole, 0.5, damage.measured))
    hole = F.adaptive_max_pool2d(damage.hole.float(), masked.shape[-2:]).to(masked)
    return torch.cat([hole, masked], 1)
