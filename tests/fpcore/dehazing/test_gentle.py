"""A gentle restoration: contrast comes back within a bound on the change, tone as far as the bound allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from fpcore.builtin.demo_photographs import clear_photographs
from fpcore.dehazing.gentle import gentle_restoration, smoothed_along_edges
from fpcore.dehazing.haze_estimate import HazeView, estimate_haze, view_photograph
from fpcore.dehazing.restore import Restoration, plan_restoration, restore, restore_picture
from fpcore.evaluation.clarity import clarity
from fpcore.evaluation.metrics import psnr

Bytes = npt.NDArray[np.uint8]
KEPT = 31.0


def as_picture(pixels: Bytes) -> Tensor:
    return torch.from_numpy(pixels / 255).permute(2, 0, 1).float()


@pytest.fixture(scope="module")
def hazy() -> Bytes:
    """A town behind haze that grows towards the top."""
    clear = dict(clear_photographs())["china"] / 255
    t = np.linspace(0.35, 0.9, len(clear))[:, None, None]
    return ((clear * t + 0.85 * (1 - t)) * 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def plan(hazy: Bytes) -> tuple[HazeView, Restoration]:
    view = view_photograph(hazy)
    return view, plan_restoration(estimate_haze(view), view.texture)


def gentle(plan: tuple[HazeView, Restoration], least_psnr: float = KEPT) -> Restoration:
    view, whole = plan
    return gentle_restoration(whole, view.picture, view.texture, least_psnr)


@pytest.mark.parametrize("least_psnr", [25.0, KEPT, 40.0])
def test_the_photograph_keeps_what_it_must_to_itself(
    hazy: Bytes, plan: tuple[HazeView, Restoration], least_psnr: float
) -> None:
    """At full size, where there is texture that the small picture does not show; and no more is kept than must be."""
    result = restore(gentle(plan, least_psnr), hazy)
    kept = float(psnr(as_picture(result)[None], as_picture(hazy)[None]))
    assert least_psnr - 0.2 < kept < least_psnr + 1.5


def test_it_is_seen_to_be_clearer_though_hardly_changed(hazy: Bytes, plan: tuple[HazeView, Restoration]) -> None:
    """Interpolated towards the whole restoration it would change as much, and be less clear."""
    source, whole = as_picture(hazy), as_picture(restore(plan[1], hazy))
    share = 10 ** (-KEPT / 20) / float((whole - source).square().mean().sqrt())
    interpolated = clarity(source, torch.lerp(source, whole, share))
    gained = clarity(source, as_picture(restore(gentle(plan), hazy)))
    assert gained.gain - 1 > 1.5 * (interpolated.gain - 1)
    assert not gained.harms
    assert gained.light == pytest.approx(1, abs=0.03)


def test_with_room_enough_it_is_the_whole_restoration(plan: tuple[HazeView, Restoration]) -> None:
    """Under a white balance as well."""
    view, whole = plan
    for r in (whole, replace(whole, balance=torch.tensor([0.9, 1.0, 1.1]))):
        small = (view.picture.permute(1, 2, 0) * 255).round().byte().numpy()
        loose = restore(gentle_restoration(r, view.picture, view.texture, 3.0), small)
        wanted = restore_picture(r, as_picture(small)).clamp(0, 1)
        assert float((as_picture(loose) - wanted).abs().mean()) < 0.01


def test_where_there_is_no_haze_nothing_changes(hazy: Bytes, plan: tuple[HazeView, Restoration]) -> None:
    view, whole = plan
    clear = replace(whole, depth=torch.zeros_like(whole.depth))
    assert np.abs(restore(gentle((view, clear)), hazy).astype(int) - hazy).max() <= 1


def test_noise_is_raised_no_more_than_the_bound_allows() -> None:
    """Texture so fine that the small picture shows none of it."""
    generator = np.random.default_rng(0)
    noisy = (150 + generator.normal(0, 20, (1024, 768, 1)).repeat(3, 2)).clip(0, 255).astype(np.uint8)
    view = view_photograph(noisy)
    estimate = replace(estimate_haze(view), tau=torch.full(view.picture.shape[1:], 1.2))
    held = gentle_restoration(plan_restoration(estimate, view.texture), view.picture, view.texture, KEPT)
    assert float(psnr(as_picture(restore(held, noisy))[None], as_picture(noisy)[None])) > KEPT - 1


def test_smoothing_follows_edges_and_takes_texture_away() -> None:
    generator = torch.Generator().manual_seed(0)
    step = torch.zeros(3, 48, 64)
    step[:, :, 32:] = 1
    picture = 0.2 + 0.6 * step + 0.02 * torch.randn((3, 48, 64), generator=generator)
    slope, offset = smoothed_along_edges(picture)
    base = torch.einsum("ijhw,jhw->ihw", slope, picture) + offset
    assert float(base[:, :, :14].std()) < 0.3 * float(picture[:, :, :14].std())
    assert float((base[:, :, 33] - base[:, :, 31]).mean()) > 0.2


def test_no_halo_around_a_tower_before_the_sky() -> None:
    generator = np.random.default_rng(0)
    picture = 0.72 + generator.normal(0, 0.004, (384, 512, 3))
    picture[120:, 180:320] = 0.42 + 0.05 * np.sign(np.sin(np.arange(140) / 3))[:, None]
    pixels = (picture * 255).round().astype(np.uint8)
    view = view_photograph(pixels)
    estimate = estimate_haze(view)
    far = torch.full(view.picture.shape[1:], 1.0)
    estimate = replace(estimate, tau=far, spread=0.2 * far, airlight=torch.full((3,), 0.78))
    whole = plan_restoration(estimate, view.texture)
    result = restore(gentle_restoration(whole, view.picture, view.texture, KEPT), pixels).mean(2) / 255
    beside, away = result[140:380, 325:340].mean(), result[140:380, 440:500].mean()
    assert abs(beside - away) < 0.012
    assert result[150:380, 190:310].std() > 1.2 * picture[150:380, 190:310].std()
