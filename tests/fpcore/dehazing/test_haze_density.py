"""How much haze there is: the darkest value of a photograph, and both witnesses together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fpcore.builtin.demo_photographs import clear_photographs
from fpcore.dehazing.haze_density import DARKEST_SHARE, combined_amount, darkest_value

Bytes = npt.NDArray[np.uint8]


def noise(height: int = 120, width: int = 160) -> Bytes:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_darkest_value_is_the_least_colour_that_few_pixels_undercut() -> None:
    picture = noise()
    least = picture.min(2) / 255
    value = darkest_value(picture)
    assert (least < value).mean() <= DARKEST_SHARE <= (least <= value + 1 / 255).mean()


def test_a_few_black_pixels_change_nothing_and_a_black_thing_does() -> None:
    grey = np.full((100, 100, 3), 128, np.uint8)
    grey[0, :5] = 0
    assert darkest_value(grey) == 128 / 255
    grey[:4, :5] = 0
    assert darkest_value(grey) == 0


def test_sixteen_bits_say_the_same_as_eight() -> None:
    picture = noise()
    assert darkest_value(picture.astype(np.uint16) * 257) == pytest.approx(darkest_value(picture), abs=1e-6)


def test_large_photographs_are_looked_at_as_if_small() -> None:
    small = noise(480, 640)
    large = small.repeat(4, 0).repeat(4, 1)
    assert darkest_value(large) == pytest.approx(darkest_value(small), abs=1 / 255)


def test_what_is_transparent_is_no_dark_thing() -> None:
    picture, alpha = np.full((64, 64, 3), 200, np.uint8), np.full((64, 64), 255, np.uint8)
    picture[:32], alpha[:32] = 0, 0
    assert darkest_value(picture, alpha) == 200 / 255
    assert picture[0, 0, 0] == 0  # and the photograph is as it was


@pytest.mark.parametrize("transmission", [0.9, 0.6, 0.3])
def test_nothing_is_darker_than_the_veil(transmission: float) -> None:
    """I = J t + A (1 − t) with J ≥ 0, on real photographs; on these there is also something black to show it."""
    for name, photograph in clear_photographs():
        hazy = photograph / 255 * transmission + 0.9 * (1 - transmission)
        value = darkest_value((hazy * 255).round().astype(np.uint8))
        assert 0.9 * (1 - transmission) - 0.003 <= value <= 0.9 * (1 - transmission) + 0.12, name


def test_both_witnesses_raise_the_amount() -> None:
    seen, darkest = torch.tensor([0.1, 0.4, 0.1]), torch.tensor([0.05, 0.05, 0.3])
    amount = combined_amount(seen, darkest)
    assert amount[0] < amount[1]
    assert amount[0] < amount[2]
    assert ((amount > 0) & (amount < 0.8)).all()
