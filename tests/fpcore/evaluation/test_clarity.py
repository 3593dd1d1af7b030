"""Clarity without ground truth: cases made by hand whose answers are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fpcore.evaluation.clarity import cielab, clarity, local_statistics
from fpcore.evaluation.colour_difference import ciede2000, colour_difference


def texture(seed: int = 0) -> Tensor:
    """Grey noise (3, 96, 128) between .4 and .6 in blocks that survive windows, veiled all over."""
    noise = torch.rand((1, 24, 32), generator=torch.Generator().manual_seed(seed)) * 0.2 + 0.4
    return noise.repeat_interleave(4, 1).repeat_interleave(4, 2).expand(3, -1, -1)


def test_nothing_changed_is_a_gain_of_one_and_no_harm() -> None:
    c = clarity(texture(), texture())
    assert (c.gain, c.light, c.harms, c.cleared) == (pytest.approx(1), pytest.approx(1), (), False)


@pytest.mark.parametrize("factor", [1.5, 3.0])
def test_gain_is_the_ratio_of_local_contrast(factor: float) -> None:
    """Contrast times a factor about the mean, the mean kept: the gain is the factor."""
    source = texture()
    result = (source - 0.5) * factor + 0.5
    c = clarity(source, result.clamp(0, 1))
    assert c.gain == pytest.approx(factor, rel=0.1)
    assert c.cleared


def test_taking_a_veil_off_is_a_gain_even_where_it_darkens() -> None:
    source = texture() * 0.4 + 0.48
    assert clarity(source, texture()).gain > 2


def test_dark_tinted_grainy_and_swallowed_are_harms() -> None:
    source = texture()
    assert clarity(source, source * 0.5).harms == ("light",)
    swallowed = torch.where(source < 0.45, source * 0, source)
    assert "crushed" in clarity(source, swallowed).harms
    sky = source.clone()
    sky[:, :40] = 0.8
    tinted, grainy = sky.clone(), sky.clone()
    tinted[2, :40] = 0.5
    assert clarity(sky, tinted).harms == ("cast",)
    grainy[:, :40] += 0.04 * torch.randn((1, 40, 128), generator=torch.Generator().manual_seed(1))
    assert clarity(sky, grainy.clamp(0, 1)).harms == ("grain",)


def test_a_picture_without_a_veil_gains_nothing_by_definition() -> None:
    dark = texture() - 0.39
    c = clarity(dark, dark * 2)
    assert (c.gain, c.measured) == (1.0, False)
    assert clarity(texture(), texture()).measured


def test_pictures_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="must both be"):
        clarity(texture(), texture()[:, 1:])


def test_local_statistics_and_cielab_agree_with_scipy_and_scikit_image() -> None:
    from scipy.ndimage import uniform_filter
    from skimage.color import rgb2lab

    picture = torch.rand((3, 40, 50), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    std, mean = local_statistics(picture[0])
    expected = torch.from_numpy(uniform_filter(picture[0].numpy(), 9))
    square = torch.from_numpy(uniform_filter((picture[0] ** 2).numpy(), 9))
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(std, (square - expected**2).clamp_min(0).sqrt())
    lab = torch.from_numpy(rgb2lab(picture.permute(1, 2, 0).numpy())).permute(2, 0, 1)
    torch.testing.assert_close(cielab(picture), lab, atol=2e-2, rtol=1e-3)


def test_ciede2000_agrees_with_the_published_pairs_and_with_scikit_image() -> None:
    """Pairs 1, 7, 9 and 17 of Sharma, Wu and Dalal (2005), and random colours."""
    published = [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ]
    for first, second, expected in published:
        pair = (torch.tensor(x, dtype=torch.float64)[:, None] for x in (first, second))
        assert float(colour_difference(*pair)) == pytest.approx(expected, abs=1e-4)
    from skimage.color import deltaE_ciede2000

    lab = torch.rand((2, 3, 500), generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 160 - 80
    lab[:, 0] = lab[:, 0].abs()
    theirs = torch.from_numpy(deltaE_ciede2000(lab[0].T.numpy(), lab[1].T.numpy()))
    torch.testing.assert_close(colour_difference(lab[0], lab[1]), theirs, atol=1e-6, rtol=1e-6)
    assert ciede2000(texture(), texture()) == 0
