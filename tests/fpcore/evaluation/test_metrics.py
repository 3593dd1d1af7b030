"""Quality measures against other implementations and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from fpcore.evaluation import metrics
from fpcore.evaluation.dark_channel import dehaze
from tests.fpcore.pictures import SOTS, free_hazy, free_photographs, sots_pairs, squeeze


def colour(*rgb: float) -> Tensor:
    return torch.tensor(rgb).view(1, 3, 1, 1).expand(1, 3, 16, 16)


def test_psnr_is_per_picture() -> None:
    image = torch.stack([torch.full((3, 8, 8), 0.5), torch.full((3, 8, 8), 0.6), torch.full((3, 8, 8), 0.0)])
    reference = torch.full((3, 3, 8, 8), 0.5)
    values = metrics.psnr(image, reference)
    assert values[0] == float("inf")
    assert values[1:].tolist() == pytest.approx([20.0, 10 * np.log10(4)], abs=1e-4)


def test_ssim_agrees_with_scikit_image() -> None:
    for hazy, clear in zip(free_hazy(), free_photographs(), strict=True):
        _, similarity = structural_similarity(
            hazy.numpy(), clear.numpy(), data_range=1.0, channel_axis=0, full=True,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        assert metrics.ssim(hazy[None], clear[None]).item() == pytest.approx(similarity.mean(), abs=2e-4)
    assert metrics.ssim(free_hazy(), free_photographs()).shape == (4,)
    assert metrics.ssim(free_hazy()[:1], free_photographs()[:1]).shape == (1,)


def test_colourfulness_of_known_colours() -> None:
    assert metrics.colourfulness(colour(0.4, 0.4, 0.4)).item() == pytest.approx(0, abs=1e-4)
    assert metrics.colourfulness(colour(1, 0, 0)).item() == pytest.approx(0.3 * np.hypot(255, 127.5), rel=1e-5)
    halves = torch.cat([colour(1, 0, 0), colour(0, 1, 0)], 3)  # red against green: σ 255, mean yellow-blue 127.5
    assert metrics.colourfulness(halves).item() == pytest.approx(255 + 0.3 * 127.5, rel=1e-5)


def test_contrast_and_clipping_of_known_pictures() -> None:
    board = torch.zeros((1, 3, 8, 8))
    board[..., ::2] = 1
    assert metrics.contrast(board).item() == pytest.approx(0.5)
    assert metrics.clipped_share(board).item() == 1
    assert metrics.clipped_share(colour(1, 0, 0)).item() == 0  # a saturated colour is not lost detail
    assert metrics.clipped_share(colour(0.99, 0.99, 0.99)).item() == 0


def test_haze_shows_in_the_measures() -> None:
    hazy, clear = free_hazy(), free_photographs()
    assert (metrics.dark_channel_density(hazy) > metrics.dark_channel_density(clear) + 0.1).all()
    assert (metrics.contrast(hazy) < metrics.contrast(clear)).all()
    assert (metrics.colourfulness(hazy) < metrics.colourfulness(clear)).all()


def small(pictures: Tensor) -> Tensor:
    return torch.stack([squeeze(picture, (32, 32)) for picture in pictures])


def check_structure(hazy: Tensor, clear: Tensor, honest: float, different: float) -> None:
    distance = metrics.structure_distance
    generator = torch.Generator().manual_seed(0)
    assert distance(hazy, hazy).abs().max() < 1e-5
    assert distance(clear, hazy).max() < honest
    assert distance(dehaze(hazy, patch=3, radius=4).image, hazy).max() < metrics.COLLAPSED
    assert distance(clear.roll(1, 0), hazy).min() > different
    assert distance(torch.rand(hazy.shape, generator=generator), hazy).min() > 0.8
    assert distance(torch.full_like(hazy, 0.5), hazy).min() > 0.8
    assert distance(1 - clear, hazy).min() > 1.8


def test_structure_distance_separates_dehazing_from_collapse() -> None:
    check_structure(small(free_hazy()), small(free_photographs()), honest=0.15, different=0.4)


@pytest.mark.long
@pytest.mark.skipif(not SOTS.is_dir(), reason="the SOTS-outdoor pairs of RESIDE (research licence) are not here")
def test_structure_distance_separates_dehazing_from_collapse_on_sots() -> None:
    hazy, clear = (small(torch.stack(side)) for side in zip(*sots_pairs(20), strict=True))
    check_structure(hazy, clear, honest=0.1, different=0.3)


def test_two_flat_pictures_have_the_same_structure() -> None:
    assert metrics.structure_distance(colour(0.5, 0.5, 0.5), colour(0.9, 0.9, 0.9)).abs().max() < 1e-6


def test_measures_of_some_pixels_agree_with_those_of_all_where_these_are_all() -> None:
    image, reference = free_hazy(), free_photographs()
    everywhere = torch.ones(4, 1, *image.shape[-2:], dtype=torch.bool)
    for measure in (metrics.psnr, metrics.ssim):
        assert torch.allclose(measure(image, reference, everywhere), measure(image, reference), atol=1e-4)
    half = everywhere.clone()
    half[..., image.shape[-1] // 2 :] = False
    mixed = torch.where(half, image, reference)
    assert torch.allclose(metrics.psnr(mixed, reference, half), metrics.psnr(image, reference, half), atol=1e-4)
    assert metrics.psnr(mixed, reference, ~half).isinf().all()
    assert (metrics.ssim(mixed, reference, ~half) > metrics.ssim(mixed, reference, half)).all()
    assert metrics.ssim(image, reference, ~everywhere).isnan().all()
