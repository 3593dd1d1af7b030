"""How far an edit goes: until the darkest thing is black."""

import pytest
import torch
from torch import Tensor

from fpcore.dehazing.edit_strength import BLACK, MOST, share_of_edit, share_to_black


def pictures(count: int = 3) -> Tensor:
    return torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("exaggerated", [0.7, 1.0, 1.6])
def test_the_veil_is_found_whatever_the_length_of_the_edit(exaggerated: float) -> None:
    """I = J t + V: an edit in the direction of J, too long or too short, is brought to J where something in J is black."""
    clear, veil, transmission = pictures(), torch.tensor([0.1, 0.3, 0.5]), torch.tensor([0.9, 0.6, 0.4])
    hazy = clear * transmission.view(-1, 1, 1, 1) + veil.view(-1, 1, 1, 1)
    edit = torch.lerp(hazy, clear, exaggerated)
    share = share_to_black(hazy, edit, veil, black=0.0)
    torch.testing.assert_close(torch.lerp(hazy, edit, share.view(-1, 1, 1, 1)), clear, atol=1e-5, rtol=0)


def test_it_is_where_the_darkest_value_becomes_black() -> None:
    hazy, darkest = pictures() * 0.6 + 0.3, torch.tensor([0.2, 0.3, 0.35])
    edit = (hazy - 0.35) / 0.6
    share = share_to_black(hazy, edit, darkest).double()
    after = (1 - share) * darkest + share * (darkest - 0.35) / 0.6
    torch.testing.assert_close(after, torch.full((3,), BLACK, dtype=torch.float64), atol=1e-5, rtol=0)


def test_what_is_black_already_stays_and_nothing_is_exaggerated() -> None:
    hazy = pictures()
    faint = hazy - 0.01
    assert share_to_black(hazy, faint, torch.tensor([0.0, 0.5, 0.9])).tolist() == [0, MOST, MOST]
    flat = torch.full((1, 3, 8, 8), 0.5)
    assert 0 <= float(share_to_black(flat, flat, torch.tensor([0.5]))) <= MOST  # nothing to tell a gain from


def test_the_model_and_the_darkest_value_have_a_say_each() -> None:
    hazy, darkest = pictures() * 0.6 + 0.3, torch.tensor([0.0, 0.2, 0.3])
    edit = (hazy - 0.3) / 0.6
    share = share_of_edit(hazy, edit, darkest)
    assert share[0] == pytest.approx(0.5)
    assert share[2] == pytest.approx((1 + (0.3 - BLACK) / 0.3) / 2, abs=1e-5)
    assert 0.5 < share[1] < (1 + MOST) / 2
