"""Prompt-to-Prompt on a small Stable Diffusion: what it must reproduce exactly, and what it may not touch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from fpcore.editing.attention import AttentionLayer, attention_layers, attention_weights
from fpcore.editing.edit import EditResult, edit, pair_maps
from fpcore.editing.prompt_to_prompt import PromptToPrompt
from fpcore.editing.settings import EditSettings
from fpcore.editing.token_alignment import TokenAlignment
from fpcore.inversion.invert import Inversion, invert
from fpcore.inversion.methods import method
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model

STEPS, SIZE = 3, (16, 12)
SOURCES = ["a photo of a cat", "haze", "the mountain road in fog"]
TARGETS = ["a photo of a dog", "", "the clear mountain road"]
NO_REPLACEMENT = {"cross_replace": 0.0, "self_replace": 0.0}


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("sd1")


@pytest.fixture(scope="module")
def schedule(model: Model) -> Schedule:
    return Schedule.from_scheduler(model.scheduler, STEPS)


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(3, 4, *SIZE, generator=torch.Generator().manual_seed(0))


def under(model: Model, prompts: list[str], scale: float, latents: Tensor) -> Tensor:
    """Sampling as diffusers does it, one picture at a time, without any of the code under test."""
    scheduler = DDIMScheduler.from_config(model.scheduler.config)
    scheduler.set_timesteps(STEPS)
    null, results = model.embed([""]).embeddings, []
    for prompt, latent in zip(prompts, latents, strict=True):
        text, z = model.embed([prompt]).embeddings, latent[None]
        for t in scheduler.timesteps:
            with torch.no_grad():
                free, bound = (model.unet(z, t, encoder_hidden_states=c).sample for c in (null, text))
            z = scheduler.step(free + scale * (bound - free), t, z).prev_sample
        results.append(z)
    return torch.cat(results)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1))


# What must come out the same


@pytest.fixture(scope="module")
def inverted(model: Model, schedule: Schedule) -> tuple[Tensor, Inversion, Tensor]:
    """Three latents, their inversion, and what sampling alone makes of it."""
    condition = model.embed(SOURCES)

    def predict(z: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        return model.predict(z, t, condition.rows(rows))

    z0 = 0.5 * torch.randn(3, 4, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = invert(predict, schedule, z0, method("fixed-point", iterations=5), batch_size=3, keep_trajectory=True)
        return z0, found, sample(predict, schedule, found.latents, batch_size=3)


@pytest.mark.parametrize("guidance", ["none", "npi", "direct-inversion"])
def test_identity_edits_reproduce_the_round_trip(
    model: Model, schedule: Schedule, inverted: tuple[Tensor, Inversion, Tensor], guidance: str
) -> None:
    """Target = source at w = 1, from a real inversion: both branches are what inverting and sampling alone gives."""
    z0, found, round_trip = inverted
    settings = EditSettings(guidance, guidance_scale=1)  # type: ignore[arg-type]
    result = edit(model, schedule, found.latents, SOURCES, SOURCES, settings, trajectory=found.trajectory)
    assert close(round_trip, z0, 1e-2), "the inversion itself"
    assert close(result.target, round_trip, 1e-4 if guidance == "direct-inversion" else 1e-5)
    if guidance == "direct-inversion":
        assert torch.equal(result.source, z0), "the source branch ends on the photograph's own latent"
    else:
        assert close(result.source, round_trip)
    assert result.nfe.tolist() == [2 * STEPS] * 3


def test_no_replacement_is_plain_sampling(model: Model, schedule: Schedule, latents: Tensor) -> None:
    result = edit(model, schedule, latents, SOURCES, TARGETS, EditSettings(**NO_REPLACEMENT))
    assert close(result.source, under(model, SOURCES, 7.5, latents))
    assert close(result.target, under(model, TARGETS, 7.5, latents))
    assert result.nfe.tolist() == [4 * STEPS] * 3


def test_replacement_leaves_the_source_branch_alone(model: Model, schedule: Schedule, latents: Tensor) -> None:
    result = edit(model, schedule, latents, SOURCES, TARGETS, EditSettings())
    assert close(result.source, under(model, SOURCES, 7.5, latents))
    assert not close(result.target, under(model, TARGETS, 7.5, latents), 1e-3), "and does steer the target"


def test_full_replacement_with_equal_prompts_is_the_source(model: Model, schedule: Schedule, latents: Tensor) -> None:
    everywhere = EditSettings(cross_replace=1, self_replace=1)
    result = edit(model, schedule, latents, SOURCES, SOURCES, everywhere)
    assert close(result.target, under(model, SOURCES, 7.5, latents))
    assert close(result.target, result.source)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_other_families_are_edited_alike(family: str, tiny_model: Callable[[str], Model]) -> None:
    """v-prediction, and two text encoders with pooled embeddings, against sampling each branch alone."""
    model = tiny_model(family)
    few = Schedule.from_scheduler(model.scheduler, 2)
    z = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(0))
    plain = edit(model, few, z, SOURCES[:1], TARGETS[:1], EditSettings(guidance_scale=1, **NO_REPLACEMENT))
    for branch, prompt in ((plain.source, SOURCES[0]), (plain.target, TARGETS[0])):
        condition = model.embed([prompt])
        alone = sample(lambda z, t, rows, c=condition: model.predict(z, t, c.rows(rows)), few, z)  # type: ignore[misc]
        assert close(branch, alone)
    everywhere = EditSettings(cross_replace=1, self_replace=1, record_maps=True)
    steered = edit(model, few, z, SOURCES[:1], TARGETS[:1], everywhere)
    assert not close(steered.target, steered.source, 1e-4)
    equal = edit(model, few, z, SOURCES[:1], SOURCES[:1], everywhere)
    assert close(equal.target, equal.source)
    assert equal.source_maps is not None
    assert close(equal.source_maps.sum(1), torch.ones(1, *SIZE))


def controls(model: Model, settings: EditSettings, pairs: int = 3, **options: object) -> PromptToPrompt:
    tokens = options.pop("tokens", None) or pair_maps(model, SOURCES[:pairs], TARGETS[:pairs], settings)
    size = options.pop("size", SIZE)
    return PromptToPrompt(attention_layers(model.unet), tokens, settings, 5, size, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("cross", [True, False])
def test_full_replacement_gives_the_target_the_sources_weights(model: Model, cross: bool) -> None:
    """Different rows in, the source's weights out (read off by the identity as values); other rows stay plain."""
    settings = EditSettings(cross_replace=1, self_replace=1)
    control = controls(model, settings, tokens=pair_maps(model, SOURCES, SOURCES, settings))
    count = 77 if cross else 48
    torch.manual_seed(4)
    query, key = torch.randn(12, 2, 48, 8), torch.randn(12, 2, count, 8)
    plain = attention_weights(query, key)
    layer = AttentionLayer("a", cross, 1)
    assert control.touches(layer)
    seen = control.attend(layer, query, key, torch.eye(count).expand(12, 2, -1, -1))
    assert close(seen[:9], plain[:9])
    assert close(seen[9:], plain[6:9])
    assert not close(plain[9:], plain[6:9], 1e-2)


def test_cross_replacement_by_a_loop_over_tokens(model: Model) -> None:
    """Refinement with re-weighting, element by element after the Prompt-to-Prompt paper."""
    settings = EditSettings()
    tokens = pair_maps(model, ["a cat"], ["a hazy cat"], settings, [("cat", "cat")])
    control = controls(model, settings, tokens=tokens)
    torch.manual_seed(5)
    query, key = torch.randn(2, 1, 48, 8), torch.randn(2, 1, 77, 8)
    seen = control.attend(AttentionLayer("a", True, 1), query, key, torch.eye(77).expand(2, 1, -1, -1))[1, 0]
    source, target = attention_weights(query, key)[:, 0]
    for j, i in enumerate([0, 1, None, 2, 3, *range(5, 77)]):
        expected = target[:, j] if i is None else source[:, i]
        assert close(seen[:, j], 2 * expected if j == 3 else expected)


def test_replacement_ends_after_its_share_of_the_steps(model: Model) -> None:
    control = controls(model, EditSettings(cross_replace=0.4, self_replace=0.6, self_tokens=48))
    fine, middle = AttentionLayer("a", False, 0), AttentionLayer("a", False, 1)
    cross = AttentionLayer("a", True, 0)
    touched = []
    for step in range(5):
        control.begin(step)
        touched.append([control.touches(layer) for layer in (fine, middle, cross)])
    assert touched == [[False, True, True]] * 2 + [[False, True, False]] + [[False, False, False]] * 2


# Independence of the batch


@pytest.mark.parametrize("guidance", ["none", "npi", "direct-inversion", "nti"])
def test_a_pair_does_not_depend_on_its_neighbours(model: Model, latents: Tensor, guidance: str) -> None:
    few = Schedule.from_scheduler(model.scheduler, 2 if guidance == "nti" else STEPS)
    paths = latents[:, None] + 0.02 * torch.linspace(-1, 0, len(few) + 1).view(1, -1, 1, 1, 1)
    words = [("cat", "dog"), None, ("fog", "clear")]
    settings = EditSettings(guidance, self_replace=0.4, blend_threshold=0.999)  # type: ignore[arg-type]

    def run(order: list[int]) -> EditResult:
        pick = [words[i] for i in order]
        sources, targets = [SOURCES[i] for i in order], [TARGETS[i] for i in order]
        return edit(model, few, latents[order], sources, targets, settings, trajectory=paths[order], blend_words=pick)

    first, second = run([0, 1, 2]), run([2, 0, 2])
    assert close(second.target[1], first.target[0])
    assert close(second.target[0], first.target[2])
    assert close(second.source[[1, 0]], first.source[[0, 2]])
    assert second.nfe[1] == first.nfe[0]


def test_a_broken_pair_is_a_value_and_harms_nobody(model: Model, schedule: Schedule, latents: Tensor) -> None:
    poisoned = latents.clone()
    poisoned[1, 0, 0, 0] = torch.nan
    good, result = (edit(model, schedule, z, SOURCES, TARGETS, EditSettings()) for z in (latents, poisoned))
    assert result.finite.tolist() == [True, False, True]
    assert torch.equal(result.target[[0, 2]], good.target[[0, 2]])


def test_each_pair_may_have_settings_of_its_own(model: Model, schedule: Schedule, latents: Tensor) -> None:
    """Three pairs under three settings in one batch are what each is in a batch under its settings alone."""
    words = [("cat", "dog"), None, ("fog", "clear")]
    each = [
        EditSettings(cross_replace=1, self_replace=0, blend_threshold=0.999),
        EditSettings(cross_replace=0, self_replace=1),
        EditSettings(cross_replace=0.7, blend_start=0.6, blend_threshold=0.9, reweight=(("mountain", 4),)),
    ]
    mixed = edit(model, schedule, latents, SOURCES, TARGETS, each, blend_words=words)
    for i, settings in enumerate(each):
        uniform = [replace(settings, reweight=s.reweight) for s in each]
        alike = edit(model, schedule, latents, SOURCES, TARGETS, uniform, blend_words=words)
        assert close(mixed.target[i], alike.target[i])
        assert not close(mixed.target[i - 1], alike.target[i - 1], 1e-3)


def test_what_pairs_must_share_is_checked(model: Model, schedule: Schedule, latents: Tensor) -> None:
    each = [EditSettings(), EditSettings(), EditSettings("npi")]
    with pytest.raises(ValueError, match="guidance must be the same for all pairs of a batch"):
        edit(model, schedule, latents, SOURCES, TARGETS, each)
    with pytest.raises(ValueError, match="settings for 2 pairs, not for 3"):
        edit(model, schedule, latents, SOURCES, TARGETS, each[:2])


# Local blending, regions, maps


def test_outside_the_blended_words_the_target_is_the_source(model: Model, schedule: Schedule, latents: Tensor) -> None:
    words = [("cat", "dog"), None, None]
    settings = EditSettings(blend_start=0, blend_threshold=1, cross_replace=0)  # nothing passes a threshold of 1
    result = edit(model, schedule, latents, SOURCES, TARGETS, settings, blend_words=words)
    same = (result.target == result.source).all(1)
    assert same[0].all()
    assert not same[1:].any(), "pairs without a word are not blended"


def test_blend_mask_by_hand(model: Model) -> None:
    settings = EditSettings(blend_start=0.4)
    tokens = pair_maps(model, SOURCES[:2], TARGETS[:2], settings, [("cat", "dog"), None])
    control = controls(model, settings, tokens=tokens, size=(32 * 4, 32 * 3))
    assert control.blend_maps is not None
    assert control.blend_maps.size == (16, 12)
    weights = torch.zeros(4, 1, 192, 77)  # rows are source 0, source 1, target 0, target 1
    weights[0, :, 0, 5], weights[2, :, 191, 5] = 1, 0.5  # "cat" in the top left corner, "dog" in the bottom right
    weights[2, :, 90, 5] = 0.1  # below 0.3 of its own maximum
    control.blend_maps.add(AttentionLayer("a", True, 3), weights)
    zeros, ones = torch.zeros(2, 4, 128, 96), torch.ones(2, 4, 128, 96)
    control.begin(1)
    assert torch.equal(control.blend(zeros, ones), ones), "not before 40 % of the steps"
    control.begin(2)
    blended = control.blend(zeros, ones)
    expected = torch.zeros(16, 12)
    expected[0:2, 0:2] = expected[14:16, 10:12] = 1  # each corner and its neighbours
    assert torch.equal(blended[0, 0], expected.repeat_interleave(8, 0).repeat_interleave(8, 1))
    assert torch.equal(blended[1], ones[1])


@pytest.mark.parametrize(
    ("latent", "level"), [((64, 64), 2), ((48, 80), 2), ((96, 96), 2), ((8, 8), 0), ((16, 12), 0), ((512, 512), 3)]
)
def test_blending_reads_a_grid_of_some_sixteen_positions_a_side(
    model: Model, latent: tuple[int, int], level: int
) -> None:
    """16² of Stable Diffusion 1, 24² of 2 at 768 pixels, everything of a small latent, the coarsest of a huge one."""
    settings = EditSettings()
    assert controls(model, settings, size=latent).blend_level == level


def test_regions_bound_the_edit(model: Model, schedule: Schedule, latents: Tensor) -> None:
    regions = torch.zeros(3, 1, *SIZE, dtype=torch.bool)
    regions[:, :, :, :6] = True
    result = edit(model, schedule, latents, SOURCES, TARGETS, EditSettings(), regions=regions)
    assert torch.equal(result.target[..., 6:], result.source[..., 6:])
    assert not torch.equal(result.target[..., :6], result.source[..., :6])


def test_maps_are_recorded_after_the_replacement(model: Model, schedule: Schedule, latents: Tensor) -> None:
    settings = EditSettings(cross_replace=1, self_replace=1, record_maps=True)
    result = edit(model, schedule, latents, SOURCES, SOURCES, settings)
    assert result.source_maps is not None
    assert result.target_maps is not None
    assert result.source_maps.shape == (3, 77, *SIZE)
    assert close(result.source_maps.sum(1), torch.ones(3, *SIZE))
    assert close(result.target_maps, result.source_maps)
    silent = edit(model, schedule, latents, SOURCES, SOURCES, EditSettings())
    assert silent.source_maps is None
    assert silent.target_maps is None


def test_haze_is_taken_over_by_the_null_text(model: Model, schedule: Schedule, latents: Tensor) -> None:
    """Removal differs from replacing everything and from replacing nothing."""
    haze = ["haze"] * 3, [""] * 3
    removed = edit(model, schedule, latents, *haze, EditSettings(tokens="remove", cross_replace=1, self_replace=0))
    refined = edit(model, schedule, latents, *haze, EditSettings(cross_replace=1, self_replace=0))
    nothing = edit(model, schedule, latents, *haze, EditSettings(**NO_REPLACEMENT))
    assert not close(removed.target, refined.target, 1e-3)
    assert not close(removed.target, nothing.target, 1e-3)


# Refusals


def test_settings_and_prompts_that_do_not_fit_are_refused(model: Model, schedule: Schedule, latents: Tensor) -> None:
    with pytest.raises(ValueError, match="guidance must be one of none, nti, npi, direct-inversion"):
        EditSettings("magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"self_replace is a share and must lie between 0 and 1, not 1\.5"):
        EditSettings(self_replace=1.5)
    with pytest.raises(ValueError, match="use the mode 'refine'"):
        edit(model, schedule, latents, SOURCES, TARGETS, EditSettings(tokens="replace"))
    with pytest.raises(ValueError, match="keep the trajectory"):
        edit(model, schedule, latents, SOURCES, TARGETS, EditSettings("direct-inversion"))


def test_token_maps_go_to_the_device_of_the_latents(model: Model) -> None:
    tokens: TokenAlignment = pair_maps(model, SOURCES, TARGETS, EditSettings())
    assert len(tokens) == 3
    assert tokens.to(torch.device("meta")).matrix.is_meta
