"""Text-based unsupervised dehazing (paper §5): invert under haze in words, regenerate without it.

Methods by name:

``words-by-place``     words by place: inverted under the mixture of ``clear`` … ``dense haze`` that the map of haze density
                       says at each position (for Stable Diffusion: of the null text and ``haze``), regenerated under
                       ``clear`` (the null text), w = 1, the picture divided by its airlight before and multiplied after.
``regenerate``         inverted under ``haze``, regenerated under the null text, w = 1: the one way for models without
                       cross-attention (SD 3, FLUX).
``prior-weighted``     paper A.3: w = 1, inverted under ``haze``; cross-attention to the null text and to ``haze`` weighted
                       by a map: the density of haze, or a depth map.
``fixed-point``        the paper's: inverted under ``haze``, Prompt-to-Prompt towards the null text, w = 7.5.
``nti``, ``nti+fixed-point``  the same with null-text optimisation, after plain DDIM or fixed-point inversion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.builtin.haze_levels import HAZE_LEVELS, level_weights
from fpcore.editing.attention import PlacedPrompts, controlled, join_prompts
from fpcore.editing.edit import edit
from fpcore.editing.settings import EditSettings
from fpcore.evaluation.dark_channel import dark_channel
from fpcore.inversion.invert import Inversion, invert
from fpcore.inversion.methods import Method, method
from fpcore.inversion.oom import OOMBackoff
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model
from fpcore.stopwatch import Stopwatch

BY_PLACE = "clear … dense haze by place"
"""What rows call the source prompt when there is not one but a mixture of several at each place."""
DehazingMethod = Literal["words-by-place", "regenerate", "nti", "nti+fixed-point", "fixed-point", "prior-weighted"]
PAPER_WORDS = ("haze", "")
PAPER_GUIDANCE = 7.5


@dataclass(frozen=True)
class DehazeSettings:
    """How a batch is dehazed; prompts None = the method's own, ``guidance_scale`` is used by the Prompt-to-Prompt ones."""

    dehazing_method: DehazingMethod = "words-by-place"
    method: Method = method("certified")
    num_inference_steps: int = 10
    prompt: str | None = None
    target_prompt: str | None = None
    guidance_scale: float = PAPER_GUIDANCE
    batch_size: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Dehazed:
    """M low-resolution pictures.

    ``result`` (M, 3, H, W) in [0, 1], not clamped before. ``haze_map`` (M, H, W) in [0, 1]: the haze token's attention where
    the method has one, else the density of haze it was told. ``nfe`` (M,) in all. ``seconds`` by stage. ``prompts``: source
    and target in words, for the record. ``rows``: network rows evaluated at once after running out of memory, or None.
    """

    result: Tensor
    haze_map: Tensor
    inversion: Inversion
    nfe: list[int]
    seconds: dict[str, float]
    prompts: tuple[str, str]
    rows: int | None


def dehaze(
    model: Model,
    pixels: Tensor,
    settings: DehazeSettings,
    *,
    density: Tensor | None = None,
    airlight: Tensor | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Dehazed:
    """Dehaze ``pixels`` (M, 3, H, W) in [0, 1], already of a size the model takes.

    ``density`` (M, 1, H, W) in [0, 1]: of the haze at each place, 1 − t (``fpcore.dehazing.haze_estimate``); for
    ``prior-weighted`` any map of where haze is to be removed; None = the dark channel. ``airlight`` (M, 3) in (0, 1]: what the
    pictures are divided by for ``words-by-place``; None = 1.

    Raises ValueError for settings that do not fit the model, ``Cancelled`` if ``should_stop`` says so.
    """
    watch = Stopwatch()
    light = torch.ones(len(pixels), 3) if airlight is None or settings.dehazing_method != "words-by-place" else airlight
    light = light.view(-1, 3, 1, 1).to(pixels)
    if density is None:
        density = dark_channel(pixels, patch=max(3, pixels.shape[-1] // 32 | 1))
    latents = model.latents_of(pixels / light)
    schedule = Schedule.from_scheduler(model.scheduler_for(latents), settings.num_inference_steps)
    watch("encode")
    match settings.dehazing_method:
        case "words-by-place":
            run = _words_by_place(model, schedule, latents, density, settings, should_stop, watch)
        case "regenerate":
            run = _regenerate(model, schedule, latents, settings, should_stop, watch)
        case "prior-weighted":
            run = _prior_weighted(model, schedule, latents, density, settings, should_stop, watch)
        case _:
            run = _prompt_to_prompt(model, schedule, latents, settings, should_stop, watch)
    return Dehazed(
        result=run.result * light.cpu(),
        haze_map=density[:, 0].cpu() if run.haze_map is None else run.haze_map,
        inversion=run.inversion,
        nfe=[a + b for a, b in zip(run.inversion.nfe, run.nfe, strict=True)],
        seconds=watch.seconds,
        prompts=run.prompts,
        rows=run.rows,
    )


@dataclass(frozen=True)
class _Run:
    """What a method returns: pictures (M, 3, H, W), not clamped, and ``nfe`` beyond the inversion's."""

    result: Tensor
    inversion: Inversion
    nfe: list[int]
    prompts: tuple[str, str]
    rows: int | None = None
    haze_map: Tensor | None = None


Stop = Callable[[], bool] | None


class _PlacedPredict:
    """``Predict`` under K prompts weighted by place: ``weights`` (M, K, H, W) of M pictures, any size."""

    def __init__(self, model: Model, prompts: list[str], weights: Tensor, latents: Tensor) -> None:
        self.model, self.words = model, join_prompts(model.embed(prompts))
        self.control = PlacedPrompts(weights.to(latents.device), _size(latents))

    def __call__(self, z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        self.control.rows = image
        with controlled(self.model.unet, self.control):
            return self.model.predict(z, t, self.words.repeat(len(z)))


def _size(latents: Tensor) -> tuple[int, int]:
    return latents.shape[-2], latents.shape[-1]


def _words_by_place(
    model: Model, schedule: Schedule, latents: Tensor, density: Tensor, s: DehazeSettings, stop: Stop, watch: Stopwatch
) -> _Run:
    """Invert under the words that the density says at each place, or the prompt that was asked for; regenerate clear."""
    levels = list(HAZE_LEVELS) if model.family == "builtin" else [PAPER_WORDS[1], PAPER_WORDS[0]]
    count = len(latents)
    target = levels[0] if s.target_prompt is None else s.target_prompt
    if s.prompt is None:
        small = F.adaptive_avg_pool2d(density.to(latents), _size(latents)).clamp(0, 1)
        weights = level_weights(small) if len(levels) > 2 else torch.cat([1 - small, small], 1)
        away = OOMBackoff(_PlacedPredict(model, levels, weights, latents))
    else:
        source = model.embed([s.prompt]).repeat(count)
        away = OOMBackoff(lambda z, t, image: model.predict(z, t, source.rows(image)))
    inversion = _inverted(away, schedule, latents, s, stop)
    watch("invert")
    clear = model.embed([target]).repeat(count)
    back = OOMBackoff(lambda z, t, image: model.predict(z, t, clear.rows(image)))
    back.rows = away.rows
    z = sample(back, schedule, inversion.latents, batch_size=s.batch_size, should_stop=stop)
    watch("sample")
    said = BY_PLACE if s.prompt is None else s.prompt
    return _Run(_decoded(model, z, watch), inversion, [len(schedule)] * count, (said, target), back.rows)


def _inverted(predict: OOMBackoff, schedule: Schedule, latents: Tensor, s: DehazeSettings, stop: Stop) -> Inversion:
    return invert(
        predict, schedule, latents, s.method, batch_size=s.batch_size, seeds=[s.seed + i for i in range(len(latents))],
        keep_trajectory=s.dehazing_method.startswith("nti"), should_stop=stop,
    )  # fmt: skip


def _decoded(model: Model, latents: Tensor, watch: Stopwatch) -> Tensor:
    """Pictures (M, 3, H, W) in [0, 1], not clamped, in main memory."""
    pictures = (model.decode(latents).cpu() + 1) / 2
    watch("decode")
    return pictures


def _words(s: DehazeSettings) -> tuple[str, str]:
    """The paper's prompts: source ``haze``, target the null text."""
    source, target = PAPER_WORDS
    return source if s.prompt is None else s.prompt, target if s.target_prompt is None else s.target_prompt


def _under(model: Model, prompt: str, count: int) -> OOMBackoff:
    condition = model.embed([prompt]).repeat(count)
    return OOMBackoff(lambda z, t, image: model.predict(z, t, condition.rows(image)))


def _regenerate(
    model: Model, schedule: Schedule, latents: Tensor, s: DehazeSettings, stop: Stop, watch: Stopwatch
) -> _Run:
    """Invert under one prompt, sample under another, plainly."""
    words, count = _words(s), len(latents)
    away = _under(model, words[0], count)
    inversion = _inverted(away, schedule, latents, s, stop)
    watch("invert")
    back = _under(model, words[1], count)
    back.rows = away.rows
    z = sample(back, schedule, inversion.latents, batch_size=s.batch_size, should_stop=stop)
    watch("sample")
    return _Run(_decoded(model, z, watch), inversion, [len(schedule)] * count, words, back.rows)


def _prior_weighted(
    model: Model, schedule: Schedule, latents: Tensor, prior: Tensor, s: DehazeSettings, stop: Stop, watch: Stopwatch
) -> _Run:
    """The map m weights cross-attention: m of the target's words, 1 − m of the source's (paper A.3)."""
    words, count = _words(s), len(latents)
    away = _under(model, words[0], count)
    inversion = _inverted(away, schedule, latents, s, stop)
    watch("invert")
    m = F.adaptive_avg_pool2d(prior.to(latents), _size(latents)).clamp(0, 1)
    back = OOMBackoff(_PlacedPredict(model, [words[1], words[0]], torch.cat([m, 1 - m], 1), latents))
    back.rows = away.rows
    z = sample(back, schedule, inversion.latents, batch_size=s.batch_size, should_stop=stop)
    watch("sample")
    return _Run(_decoded(model, z, watch), inversion, [len(schedule)] * count, words, back.rows)


def _prompt_to_prompt(
    model: Model, schedule: Schedule, latents: Tensor, s: DehazeSettings, stop: Stop, watch: Stopwatch
) -> _Run:
    """The paper's Table 2: the haze token's cross-attention is replaced by the null text's under guidance w."""
    words, count = _words(s), len(latents)
    if s.dehazing_method == "nti":
        s = replace(s, method=method("ddim"))
    away = _under(model, words[0], count)
    inversion = _inverted(away, schedule, latents, s, stop)
    watch("invert")
    guidance: Literal["nti", "none"] = "nti" if s.dehazing_method.startswith("nti") else "none"
    settings = EditSettings(guidance=guidance, guidance_scale=s.guidance_scale, tokens="remove", record_maps=True)
    z, nfe, maps = torch.empty_like(latents), [], []
    for part in torch.arange(count).split(s.batch_size):
        path = None if inversion.trajectory is None else inversion.trajectory[part]
        n = len(part)
        edited = edit(
            model, schedule, inversion.latents[part], [words[0]] * n, [words[1]] * n, settings, trajectory=path
        )
        z[part] = edited.target
        nfe += edited.nfe.tolist()
        if edited.source_maps is not None:
            maps.append(edited.source_maps[:, 1].cpu())  # the token after the start of text: haze
    watch("sample")
    haze_map = torch.cat(maps) if maps else None
    if haze_map is not None:
        haze_map = haze_map / haze_map.amax((1, 2), keepdim=True).clamp_min(1e-12)
    return _Run(_decoded(model, z, watch), inversion, nfe, words, haze_map=haze_map)
