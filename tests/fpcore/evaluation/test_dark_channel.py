"""The dark channel prior: its parts against straightforward computations, its whole on pairs with known truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from fpcore.evaluation.dark_channel import _box, dark_channel, dehaze
from fpcore.evaluation.metrics import psnr
from tests.fpcore.pictures import SOTS, free_hazy, free_photographs, sots_pairs


def test_the_dark_channel_is_the_minimum_over_colours_and_patch() -> None:
    image = torch.rand((2, 3, 40, 51), generator=torch.Generator().manual_seed(0))
    expected = ndimage.minimum_filter(image.numpy().min(1), size=(1, 15, 15), mode="nearest")
    np.testing.assert_array_equal(dark_channel(image)[:, 0].numpy(), expected)


@pytest.mark.parametrize("radius", [1, 4, 60])
def test_box_means_do_not_count_what_lies_outside(radius: int) -> None:
    x = torch.rand((1, 1, 37, 50), generator=torch.Generator().manual_seed(0))
    size, inside = 2 * radius + 1, np.ones((37, 50))
    total, count = (ndimage.uniform_filter(a, size, mode="constant") for a in (x[0, 0].double().numpy(), inside))
    np.testing.assert_allclose(_box(x, radius)[0, 0].numpy(), total / count, rtol=1e-5)


def test_haze_of_one_thickness_is_inverted() -> None:
    """Where every patch holds a black pixel and A is seen, t comes out as ω-corrected truth."""
    generator = torch.Generator().manual_seed(0)
    clear = torch.rand((3, 120, 120), generator=generator)
    clear[:, ::5, ::5] = 0
    clear[:, :20, :20] = 0.9  # the sky shows the airlight
    transmission = torch.full((1, 120, 120), 0.5)
    transmission[:, :20, :20] = 0
    hazy = clear * transmission + 0.9 * (1 - transmission)
    result = dehaze(hazy, radius=5, eps=1e-4)
    torch.testing.assert_close(result.airlight, torch.full((1, 3), 0.9))
    assert abs(result.transmission[0, 0, 60:, 60:].mean() - (1 - 0.95 * 0.5)) < 0.01
    assert psnr(result.image[..., 60:, 60:], clear[None, :, 60:, 60:]) > 25


def test_results_are_pictures_whatever_comes_in() -> None:
    for image in (torch.zeros((3, 20, 30)), torch.ones((2, 3, 5, 4)), torch.rand((1, 3, 1, 1))):
        result = dehaze(image)
        assert result.image.shape[1:] == image.shape[-3:]
        assert result.image.isfinite().all()
        assert 0 <= result.image.min() <= result.image.max() <= 1


@pytest.mark.long
def test_rendered_haze_on_free_photographs_is_lifted() -> None:
    hazy, clear = free_hazy(), free_photographs()
    gain = psnr(dehaze(hazy, radius=30).image, clear) - psnr(hazy, clear)
    assert gain.mean() > 1


@pytest.mark.long
@pytest.mark.skipif(not SOTS.is_dir(), reason="the SOTS-outdoor pairs of RESIDE (research licence) are not here")
def test_sots_outdoor_is_as_hard_for_the_prior_as_measured() -> None:
    """The first 10 pairs. On all 60: hazy 16.1 dB, dark channel prior 16.7 dB. (As published, on all of SOTS: 19.1.)"""
    pairs = sots_pairs(10)
    hazy, clear = (torch.stack(side) for side in zip(*pairs, strict=True))
    assert psnr(dehaze(hazy).image, clear).mean() == pytest.approx(16.24, abs=0.05)
