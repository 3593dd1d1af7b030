"""Density of haze as a map, the airlight, what is made of both at full resolution, and when nothing is done."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fpcore.builtin.demo_photographs import clear_photographs
from fpcore.dehazing.gentle import as_judged
from fpcore.dehazing.haze_density import HazeDensityNet
from fpcore.dehazing.haze_estimate import (
    BLACK,
    DARK_MOST,
    DARK_OMEGA,
    DARK_SHARE,
    DARK_SPREAD,
    EVEN_SPREAD,
    HazeEstimate,
    HazeWeights,
    _with_dark_channel,
    _with_even_veil,
    dark_percentile,
    estimate_haze,
    haze_density_nets,
    network_size,
    view_photograph,
    weights_files,
    without_frames,
)
from fpcore.dehazing.quality_gate import judge_estimate, newly_clipped
from fpcore.dehazing.restore import plan_restoration, restore, restore_picture
from fpcore.evaluation.metrics import psnr
from fpcore.small_unet import MULTIPLE

Bytes = npt.NDArray[np.uint8]


def noise(height: int = 120, width: int = 160) -> Bytes:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_dark_percentile_is_the_least_colour_that_few_pixels_undercut() -> None:
    picture = noise()
    least = picture.min(2) / 255
    value = dark_percentile(picture)
    assert (least < value).mean() <= DARK_SHARE <= (least <= value + 1 / 255).mean()


def test_a_few_black_pixels_change_nothing_and_a_black_thing_does() -> None:
    grey = np.full((100, 100, 3), 128, np.uint8)
    grey[0, :5] = 0
    assert dark_percentile(grey) == 128 / 255
    grey[:4, :5] = 0
    assert dark_percentile(grey) == 0


def test_sixteen_bits_say_the_same_as_eight() -> None:
    picture = noise()
    assert dark_percentile(picture.astype(np.uint16) * 257) == pytest.approx(dark_percentile(picture), abs=1e-6)


def test_large_photographs_are_looked_at_as_if_small() -> None:
    small = noise(480, 640)
    large = small.repeat(4, 0).repeat(4, 1)
    assert dark_percentile(large) == pytest.approx(dark_percentile(small), abs=1 / 255)


def test_what_is_transparent_is_no_dark_thing() -> None:
    picture, alpha = np.full((64, 64, 3), 200, np.uint8), np.full((64, 64), 255, np.uint8)
    picture[:32], alpha[:32] = 0, 0
    assert dark_percentile(picture, alpha) == 200 / 255
    assert picture[0, 0, 0] == 0  # and the photograph is as it was


@pytest.mark.parametrize("transmission", [0.9, 0.6, 0.3])
def test_nothing_is_darker_than_the_veil(transmission: float) -> None:
    """I = J t + A (1 − t) with J ≥ 0, on real photographs; on these there is also something black to show it."""
    for name, photograph in clear_photographs():
        hazy = photograph / 255 * transmission + 0.9 * (1 - transmission)
        value = dark_percentile((hazy * 255).round().astype(np.uint8))
        assert 0.9 * (1 - transmission) - 0.003 <= value <= 0.9 * (1 - transmission) + 0.12, name


def rendered(name: str, near: float, far: float, airlight: tuple[float, ...] = (0.8, 0.8, 0.8)) -> np.ndarray:
    """A clear photograph under haze from transmission ``near`` at the bottom to ``far`` at the top, (H, W, 3) uint8."""
    clear = dict(clear_photographs())[name] / 255
    t = np.geomspace(far, near, len(clear))[:, None, None]
    return ((clear * t + np.array(airlight) * (1 - t)) * 255).round().astype(np.uint8)


def test_the_weights_are_small() -> None:
    weights: tuple[HazeWeights, ...] = ("research", "free")
    assert sum(path.stat().st_size for path in {p for w in weights for p in weights_files(w)}) < 5e6
    assert sum(p.numel() for p in HazeDensityNet().parameters()) < 1e6


def test_what_two_networks_say_is_averaged() -> None:
    hazy = rendered("china", 0.9, 0.3)
    hazy[-60:, :60] = 0  # something is black: the dark percentile has no say
    view = view_photograph(hazy)
    nets = haze_density_nets("research")
    assert len(nets) == 2
    both, *each = (estimate_haze(view, x) for x in (nets, nets[:1], nets[1:]))
    assert both.evaluations == each[0].evaluations + each[1].evaluations == 6
    for said in ("airlight", "spread"):
        mean = (getattr(each[0], said) + getattr(each[1], said)) / 2
        assert not torch.equal(getattr(both, said), getattr(each[0], said))
        torch.testing.assert_close(getattr(both, said), mean)


@pytest.mark.parametrize("size", [(640, 480), (4000, 3000), (300, 1200), (17, 16), (1, 1)])
def test_any_size_and_aspect(size: tuple[int, int]) -> None:
    wide, high = network_size(*size)
    assert wide % MULTIPLE == high % MULTIPLE == 0
    picture = noise(min(size[1], 600), min(size[0], 800))
    estimate = estimate_haze(view_photograph(picture))
    assert estimate.tau.isfinite().all()
    assert 0 <= float(estimate.density.min()) <= float(estimate.density.max()) < 1


@pytest.mark.long
def test_density_is_a_map_and_follows_the_haze() -> None:
    """Denser haze is seen as denser, and far haze as far: the top of the picture more than the bottom."""
    names = ("china", "coffee", "astronaut", "chelsea", "rocket")
    thin, thick = (
        [estimate_haze(view_photograph(rendered(n, near, far))) for n in names]
        for near, far in ((0.95, 0.6), (0.6, 0.3))
    )
    assert np.mean([e.amount for e in thin]) + 0.1 < np.mean([e.amount for e in thick])
    halves = [(float(e.density[: e.density.shape[0] // 2].mean()), float(e.density.mean())) for e in thin]
    assert np.mean([top - whole for top, whole in halves]) > 0.02


def test_the_airlight_has_a_colour() -> None:
    blue, brown = (
        estimate_haze(view_photograph(rendered("china", 0.5, 0.2, a))).airlight
        for a in ((0.6, 0.7, 0.85), (0.8, 0.7, 0.55))
    )
    assert float(blue[2] - blue[0]) > 0.05
    assert float(brown[0] - brown[2]) > 0.05


@pytest.mark.parametrize("shade", [0, 255])
def test_frames_are_no_evidence(shade: int) -> None:
    """A black or white frame around a hazy photograph changes next to nothing in what is seen within."""
    hazy = rendered("china", 0.6, 0.3)
    framed = np.full((hazy.shape[0] + 80, hazy.shape[1] + 120, 3), shade, np.uint8)
    framed[40:-40, 60:-60] = hazy
    plain, within = (estimate_haze(view_photograph(p)) for p in (hazy, framed))
    assert within.dark == pytest.approx(plain.dark, abs=0.03)
    assert within.amount == pytest.approx(plain.amount, abs=0.12)
    picture = torch.zeros(3, 20, 30)
    picture[:, 4:18, 5:] = 0.5
    inside = without_frames(picture)
    assert inside.sum() == 12 * 24  # and a line at each frame, which is a mixture of both
    assert inside[5:17, 6:].all()


@pytest.mark.long
def test_restoring_brings_a_hazy_photograph_closer_to_the_clear_one() -> None:
    gains = []
    for name, clear in clear_photographs():
        hazy = rendered(name, 0.7, 0.35)
        view = view_photograph(hazy)
        estimate = estimate_haze(view)
        done = restore(plan_restoration(estimate, view.texture), hazy)
        assert done.dtype == np.uint8
        assert done.shape == hazy.shape
        before, after = (torch.from_numpy(x / 255.0)[None] for x in (hazy, done))
        truth = torch.from_numpy(clear / 255.0)[None]
        gains.append(float(psnr(after, truth) - psnr(before, truth)))
    assert np.mean(gains) > 3
    assert min(gains) > -1


def test_strength_mask_and_depth_of_colour() -> None:
    hazy = rendered("coffee", 0.7, 0.35)
    view = view_photograph(hazy)
    plan = plan_restoration(estimate_haze(view), view.texture)
    whole, none = restore(plan, hazy), restore(plan, hazy, 0.0)
    np.testing.assert_array_equal(none, hazy)
    half = restore(plan, hazy, 0.5).astype(int)
    inside = (whole > 0) & (whole < 255)  # what is not clipped at full strength
    assert np.abs(half - (whole.astype(int) + hazy) / 2)[inside].max() <= 1
    mask = np.zeros(hazy.shape[:2], np.float32)
    mask[:, 100:] = 1
    part = restore(plan, hazy, 1.0, mask)
    np.testing.assert_array_equal(part[:, :100], hazy[:, :100])
    np.testing.assert_array_equal(part[:, 100:], whole[:, 100:])
    sixteen = restore(plan, hazy.astype(np.uint16) * 257)
    assert sixteen.dtype == np.uint16
    assert np.abs(sixteen / 257 - whole).max() <= 1


def test_white_balance_takes_the_cast_of_the_airlight_off() -> None:
    hazy = rendered("china", 0.5, 0.2, (0.85, 0.75, 0.6))
    view = view_photograph(hazy)
    estimate = estimate_haze(view)
    kept, balanced = (
        restore(plan_restoration(estimate, view.texture, white_balance=b), hazy).mean((0, 1)) for b in (False, True)
    )
    assert balanced[0] / balanced[2] < kept[0] / kept[2]


def test_noise_is_not_amplified_where_there_is_nothing_else() -> None:
    """A flat grey sky with a little noise under dense haze: hardly more noise after."""
    generator = np.random.default_rng(0)
    clear = dict(clear_photographs())["china"] / 255
    clear[:150] = 0.75
    t = np.geomspace(0.12, 0.6, len(clear))[:, None, None]
    hazy = clear * t + 0.8 * (1 - t) + generator.normal(0, 0.004, clear.shape)
    hazy = (hazy.clip(0, 1) * 255).round().astype(np.uint8)
    view = view_photograph(hazy)
    done = restore(plan_restoration(estimate_haze(view), view.texture), hazy)
    assert done[20:120].mean(2).std(0).mean() < 5 * hazy[20:120].mean(2).std(0).mean()
    assert done[20:120, 20:-20].mean(2).std() / 255 < 0.05


def test_where_no_haze_is_found_nothing_is_changed() -> None:
    none = torch.zeros(16, 16)
    e = HazeEstimate(torch.rand(3, 16, 16), none, none + 0.1, torch.ones(3), none + 1, 0.0, 3)
    verdict = judge_estimate(e, e.picture)
    assert (verdict.name, verdict.strength) == ("unchanged", 0.0)


@pytest.mark.long
def test_clear_photographs_come_back_close_to_themselves_and_hazy_ones_are_cleared() -> None:
    for name, clear in clear_photographs():
        for pixels, clear_one in ((clear, True), (rendered(name, 0.6, 0.3), False)):
            view = view_photograph(np.ascontiguousarray(pixels))
            estimate = estimate_haze(view)
            plan = plan_restoration(estimate, view.texture)
            verdict = judge_estimate(estimate, restore_picture(plan, estimate.picture).clamp(0, 1))
            assert verdict.reason.endswith(".")
            if clear_one:
                result = restore(as_judged(plan, view, verdict), pixels, verdict.strength)
                assert float(psnr(*(torch.from_numpy(x[None] / 255) for x in (result, pixels)))) > 30, name
            else:
                assert verdict.name == "cleared", (name, verdict.reason)


def test_only_texture_that_becomes_black_or_white_counts_as_clipped() -> None:
    source = torch.full((3, 64, 64), 0.9)
    source[:, 32:] = torch.rand((3, 32, 64), generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    sky_clips, texture_clips = source.clone(), source.clone()
    sky_clips[:, :20] = 1.0
    texture_clips[:, 44:] = 0.0
    assert float(newly_clipped(source, sky_clips)) == 0
    assert float(newly_clipped(source, texture_clips)) == pytest.approx(20 / 64, abs=0.01)
    assert float(newly_clipped(texture_clips, texture_clips)) == 0


def told(tau: float, spread: float, dark: float) -> HazeEstimate:
    """An estimate of the same haze everywhere, of a grey picture."""
    everywhere = torch.ones(32, 32)
    return HazeEstimate(
        torch.full((3, 32, 32), 0.6), tau * everywhere, spread * everywhere, torch.full((3,), 0.8), everywhere, dark, 3
    )


def test_the_even_veil_counts_by_what_it_and_the_network_know() -> None:
    """By precision: where the network is sure its τ stays, where it is not the veil's comes; none where something is black."""
    veil = -math.log(1 - (0.3 + BLACK) / 0.6)
    sure, unsure, black = (
        float(_with_even_veil(told(1.5, s, d)).tau.mean()) for s, d in [(0.01, 0.3), (2.0, 0.3), (2.0, 0.0)]
    )
    assert sure == pytest.approx(1.5, abs=0.01)
    assert unsure == pytest.approx(veil, abs=0.02)
    assert black == pytest.approx(1.5)
    equal = float(_with_even_veil(told(1.5, EVEN_SPREAD, 0.3)).tau.mean())
    assert equal == pytest.approx((1.5 + veil) / 2, abs=1e-5)


def test_the_dark_channel_counts_by_what_the_network_knows() -> None:
    """By precision, up to a limit; near what is black the network's τ becomes less, before a bright dark channel more."""
    veil = -math.log(1 - DARK_OMEGA * 0.6 / 0.8)
    for spread in (0.01, 0.1, 9.0):
        weight = min((spread / DARK_SPREAD) ** 2, DARK_MOST)
        tau = float(_with_dark_channel(told(1.5, spread, 0.0)).tau.mean())
        assert tau == pytest.approx((1.5 + weight * veil) / (1 + weight), abs=1e-5)
    half_black = told(0.5, DARK_SPREAD, 0.0)
    half_black.picture[:, :, :8] = 0
    tau = _with_dark_channel(half_black).tau
    assert float(tau[:, 4].max()) < 0.5 < float(tau[:, -1].min())


def test_a_black_frame_is_no_dark_thing_beside_the_haze() -> None:
    framed = told(1.0, DARK_SPREAD, 0.0)
    expected = float(_with_dark_channel(framed).tau[16, 16])
    framed.picture[:, :, :4], framed.evidence[:, :4] = 0, 0
    np.testing.assert_allclose(_with_dark_channel(framed).tau[:, 4:], expected, rtol=1e-6)
