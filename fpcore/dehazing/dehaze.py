"""Text-based unsupervised dehazing (paper §5): invert under haze in words, regenerate without it.

Variants by name:

``graded`` (default)  inverted under the prompts for a little less and a little more haze than the model sees in the
                      photograph, regenerated under ``clear``, w = 1, averaged, and taken half as far as the model
                      says, half until the darkest thing is black (``fpcore.dehazing.edit_strength``).
``regenerate``        inverted under ``haze``, regenerated under the null text, w = 1.
``fixed-point``       the paper's: inverted under ``haze``, Prompt-to-Prompt towards the null text, w = 7.5.
``nti``, ``nti+fixed-point``  the same with null-text optimisation, after plain DDIM or fixed-point inversion.
``prior-weighted``    paper A.3: w = 1, cross-attention to ``haze`` and to the null text weighted by the dark channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fpcore.builtin.recipes import DENSEST, HAZE_LEVELS
from fpcore.dehazing.edit_strength import share_of_edit
from fpcore.dehazing.haze_density import HazeScale, combined_amount, estimate_amount
from fpcore.editing.attention import PriorWeightedAttention, controlled, join_prompts
from fpcore.editing.edit import edit
from fpcore.editing.prompt_to_prompt import EditSettings
from fpcore.evaluation.dark_channel import dark_channel
from fpcore.inversion.criteria import Status
from fpcore.inversion.invert import Inversion, invert
from fpcore.inversion.methods import Method, method
from fpcore.inversion.oom import OOMBackoff
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Condition, Model
from fpcore.stopwatch import Stopwatch

Variant = Literal["graded", "regenerate", "nti", "nti+fixed-point", "fixed-point", "prior-weighted"]
HAZE_SCALE = HazeScale(HAZE_LEVELS, DENSEST)
PAPER_GUIDANCE = 7.5
VIEWS = ((0.8, False), (1.35, True))
"""What ``graded`` averages over: multiple of the amount of haze that is assumed, and whether mirrored.

The amount is uncertain, the more so the more there is. The mean over two amounts either side of it stands for the posterior mean
(a quadrature of two nodes), as mirroring one does for what the model makes up. The best of a
grid on held-out photographs, by little (``benchmarks.haze_amount``, docs/DEHAZING.md)."""


@dataclass(frozen=True)
class DehazeSettings:
    """How a batch is dehazed; prompts None = the variant's own, ``guidance_scale`` is used by the Prompt-to-Prompt ones,
    ``views`` and ``to_black`` by ``graded``: whether the darkest value has a say in how far the edit goes
    (``fpcore.dehazing.edit_strength``)."""

    variant: Variant = "graded"
    method: Method = method("certified")
    num_inference_steps: int = 25
    prompt: str | None = None
    target_prompt: str | None = None
    guidance_scale: float = PAPER_GUIDANCE
    views: tuple[tuple[float, bool], ...] = VIEWS
    to_black: bool = True
    batch_size: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Dehazed:
    """M pictures at model size.

    ``result`` (M, 3, H, W) in [0, 1], not clamped before. ``haze_map`` (M, H, W) in [0, 1]: the haze token's attention
    where the variant has one, else the veil that was removed. ``seen`` (M,): amount of haze that the model sees, NaN if
    it was not asked; ``amount`` (M,): the one that was reckoned with, NaN where the variant needs none. ``nfe`` (M,) in
    all. ``seconds`` by stage. ``prompts``: source and target in words, for the record. ``rows``: network rows evaluated
    at once after running out of memory, or None.
    """

    result: Tensor
    haze_map: Tensor
    seen: Tensor
    amount: Tensor
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
    darkest: Tensor | None = None,
    seen: Tensor | None = None,
    prior: Tensor | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Dehazed:
    """Dehaze ``pixels`` (M, 3, H, W) in [0, 1], already of a size the model takes.

    For ``graded``: ``darkest`` (M,) of the photographs at full resolution (``haze_density.darkest_value``), None = of
    ``pixels``; ``seen`` (M,): the amount of haze that the model sees, where it was asked before; None = it is asked.
    ``prior`` (M, 1, H, W) in [0, 1] for ``prior-weighted``: where haze is to be removed; None = the dark channel.
    Raises ValueError for settings that do not fit the model, ``Cancelled`` if ``should_stop`` says so.
    """
    watch = Stopwatch()
    latents = model.latents_of(pixels)
    schedule = Schedule.from_scheduler(model.scheduler_for(latents), settings.num_inference_steps)
    watch("encode")
    match settings.variant:
        case "graded":
            darkest = pixels.amin((1, 2, 3)).cpu() if darkest is None else darkest
            run = _graded(model, schedule, pixels, latents, darkest, seen, settings, should_stop, watch)
        case "regenerate":
            run = _regenerate(model, schedule, latents, settings, should_stop, watch)
        case "prior-weighted":
            weight = dark_channel(pixels, patch=max(3, pixels.shape[-1] // 32 | 1)) if prior is None else prior
            run = _prior_weighted(model, schedule, latents, weight, settings, should_stop, watch)
        case _:
            run = _prompt_to_prompt(model, schedule, latents, settings, should_stop, watch)
    veil = (pixels.cpu() - run.result).mean(1).clamp(0, 1)
    unknown = torch.full((len(pixels),), torch.nan)
    return Dehazed(
        result=run.result,
        haze_map=veil if run.haze_map is None else run.haze_map,
        seen=unknown if run.seen is None else run.seen,
        amount=unknown if run.amount is None else run.amount,
        inversion=run.inversion,
        nfe=[a + b for a, b in zip(run.inversion.nfe, run.nfe, strict=True)],
        seconds=watch.seconds,
        prompts=run.prompts,
        rows=run.rows,
    )


@dataclass(frozen=True)
class _Run:
    """What a variant returns: pictures (M, 3, H, W) in [0, 1], not clamped, and ``nfe`` beyond the inversion's."""

    result: Tensor
    inversion: Inversion
    nfe: list[int]
    prompts: tuple[str, str]
    rows: int | None = None
    seen: Tensor | None = None
    amount: Tensor | None = None
    haze_map: Tensor | None = None


Stop = Callable[[], bool] | None


def _there_and_back(
    model: Model,
    schedule: Schedule,
    latents: Tensor,
    source: Condition,
    target: Condition,
    s: DehazeSettings,
    stop: Stop,
    watch: Stopwatch,
) -> tuple[Tensor, Inversion, int | None]:
    """Invert under ``source``, sample under ``target``, rows of both given per image, w = 1."""
    away = OOMBackoff(model.under(source))
    seeds = [s.seed + i for i in range(len(latents))]
    inversion = invert(away, schedule, latents, s.method, batch_size=s.batch_size, seeds=seeds, should_stop=stop)
    watch("invert")
    back = OOMBackoff(model.under(target))
    back.rows = away.rows
    z = sample(back, schedule, inversion.latents, batch_size=s.batch_size, should_stop=stop)
    watch("sample")
    return z, inversion, back.rows


def _graded(
    model: Model,
    schedule: Schedule,
    pixels: Tensor,
    latents: Tensor,
    darkest: Tensor,
    seen: Tensor | None,
    s: DehazeSettings,
    stop: Stop,
    watch: Stopwatch,
) -> _Run:
    """Invert under the amounts of haze of ``s.views``, or under the prompt that was asked for, and regenerate clear.

    The darkest value has a say in how far the edit goes, unless a prompt was asked for.
    """
    count, spent = len(pixels), 0
    if seen is None:
        seen, spent = estimate_amount(model, latents, HAZE_SCALE, batch_size=s.batch_size)
    amount = combined_amount(seen, darkest)
    words = ("haze" if s.prompt is None else s.prompt, HAZE_LEVELS[0] if s.target_prompt is None else s.target_prompt)
    mirrored = model.latents_of(pixels.flip(-1))
    watch("encode")
    views = torch.cat([mirrored if mirror else latents for _, mirror in s.views])
    if s.prompt is None:
        amounts = torch.cat([multiple * amount for multiple, _ in s.views])
        source = HAZE_SCALE.condition(model, amounts.clamp_min(HAZE_SCALE.spacing))
    else:
        source = model.embed([s.prompt]).repeat(len(views))
    target = model.embed([words[1]]).repeat(len(views))
    z, inversion, rows = _there_and_back(model, schedule, views, source, target, s, stop, watch)
    spent += len(s.views) * len(schedule)
    result = _merge_views(_decoded(model, z, watch), s.views)
    if s.to_black and s.prompt is None:
        photographs = pixels.cpu()
        share = share_of_edit(photographs, result, darkest)
        result = torch.lerp(photographs, result, share.view(-1, 1, 1, 1))
    return _Run(result, _first_view(inversion, count), [spent] * count, words, rows, seen, amount)


def _first_view(inversion: Inversion, count: int) -> Inversion:
    """The first view's inversion of each photograph, with the worst status and bound and the evaluations of all its views."""
    views = range(0, len(inversion.status), count)
    status = [max((inversion.status[i + v] for v in views), key=int) for i in range(count)]
    nfe = [sum(inversion.nfe[i + v] for v in views) for i in range(count)]
    bound = [max(inversion.path_bound[i + v] for v in views) for i in range(count)]
    return replace(inversion, latents=inversion.latents[:count], status=status, nfe=nfe, path_bound=bound)


def _merge_views(pictures: Tensor, views: Sequence[tuple[float, bool]]) -> Tensor:
    """Mean over the views (V · M, 3, H, W) of M photographs, mirrored ones turned back."""
    turned = [p.flip(-1) if mirror else p for p, (_, mirror) in zip(pictures.chunk(len(views)), views, strict=True)]
    return torch.stack(turned).mean(0)


def _decoded(model: Model, latents: Tensor, watch: Stopwatch) -> Tensor:
    """Pictures (M, 3, H, W) in [0, 1], not clamped, in main memory."""
    pictures = model.pictures_of(latents)
    watch("decode")
    return pictures


def _words(s: DehazeSettings) -> tuple[str, str]:
    """The paper's prompts: source ``haze``, target the null text."""
    return "haze" if s.prompt is None else s.prompt, "" if s.target_prompt is None else s.target_prompt


def _regenerate(
    model: Model, schedule: Schedule, latents: Tensor, s: DehazeSettings, stop: Stop, watch: Stopwatch
) -> _Run:
    words = _words(s)
    source, target = (model.embed([w]).repeat(len(latents)) for w in words)
    z, inversion, rows = _there_and_back(model, schedule, latents, source, target, s, stop, watch)
    return _Run(_decoded(model, z, watch), inversion, [len(schedule)] * len(latents), words, rows)


def _prior_weighted(
    model: Model, schedule: Schedule, latents: Tensor, prior: Tensor, s: DehazeSettings, stop: Stop, watch: Stopwatch
) -> _Run:
    words, count = _words(s), len(latents)
    source, target = (model.embed([w]) for w in words)
    inversion = _inversion(model, schedule, latents, source, s, stop)
    watch("invert")
    both, size = join_prompts(target, source), (latents.shape[-2], latents.shape[-1])
    z = torch.empty_like(latents)
    for part in torch.arange(count).split(s.batch_size):
        weighted = PriorWeightedAttention(prior[part].to(latents.device), size)
        with controlled(model.unet, weighted):
            condition = both.repeat(len(part))
            z[part] = sample(
                model.under(condition),
                schedule, inversion.latents[part], batch_size=len(part), should_stop=stop,
            )  # fmt: skip
    watch("sample")
    return _Run(_decoded(model, z, watch), inversion, [len(schedule)] * count, words)


def _inversion(
    model: Model, schedule: Schedule, latents: Tensor, source: Condition, s: DehazeSettings, stop: Stop
) -> Inversion:
    everyone = source.repeat(len(latents))
    return invert(
        model.under(everyone),
        schedule, latents, s.method, batch_size=s.batch_size, keep_trajectory=s.variant.startswith("nti"), should_stop=stop,
    )  # fmt: skip


def _prompt_to_prompt(
    model: Model, schedule: Schedule, latents: Tensor, s: DehazeSettings, stop: Stop, watch: Stopwatch
) -> _Run:
    """The paper's Table 2: the haze token's cross-attention is replaced by the null text's under guidance w."""
    words, count = _words(s), len(latents)
    if s.variant == "nti":
        s = replace(s, method=method("ddim"))
    inversion = _inversion(model, schedule, latents, model.embed([words[0]]), s, stop)
    watch("invert")
    guidance: Literal["nti", "none"] = "nti" if s.variant.startswith("nti") else "none"
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


def failed(inversion: Inversion) -> list[bool]:
    """Which images have no inversion."""
    return [status == Status.NONFINITE for status in inversion.status]
