"""Every dehazing method by name, on the shipped model and on Stable Diffusion's architecture."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fpcore.dehazing.dehaze import DehazeSettings, DehazingMethod, dehaze
from fpcore.dehazing.quality_gate import judge_edit
from fpcore.evaluation.metrics import psnr
from fpcore.models.model import Model
from tests.photographs import hazy_photographs

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def shipped(builtin_model: Callable[[str], Model]) -> Model:
    return builtin_model("haze")


@pytest.fixture(scope="module")
def stable_diffusion(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("sd1")


def pictures(size: int, count: int = 2) -> Tensor:
    """Hazy photographs (count, 3, size, size)."""
    small = [Image.fromarray(p).resize((size, size), Image.Resampling.BOX) for p in hazy_photographs().values()]
    return torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1).float() / 255 for p in small[:count]])


def even(count: int, side: int, density: float = 0.5) -> Tensor:
    """The same density of haze everywhere: (count, 1, side, side)."""
    return torch.full((count, 1, side, side), density)


@pytest.mark.parametrize(
    ("which", "name"),
    [("shipped", "words-by-place"), *(("stable_diffusion", name) for name in get_args(DehazingMethod))],
)
def test_every_method_runs(name: DehazingMethod, which: str, request: pytest.FixtureRequest) -> None:
    model: Model = request.getfixturevalue(which)
    side = model.image_size[0]
    settings = DehazeSettings(dehazing_method=name, num_inference_steps=3, batch_size=2)
    done = dehaze(model, pictures(side), settings, density=even(2, side))
    assert done.result.shape == (2, 3, side, side)
    assert done.result.isfinite().all()
    assert done.haze_map.shape[0] == 2
    assert 0 <= float(done.haze_map.min()) <= float(done.haze_map.max()) <= 1
    assert min(done.nfe) > max(3, min(done.inversion.nfe))
    if name in ("fixed-point", "nti", "nti+fixed-point", "prior-weighted", "regenerate"):
        assert done.prompts == ("haze", "")  # the paper's words, exactly


def test_plain_inversion_only_for_nti_alone(shipped: Model) -> None:
    settings = DehazeSettings(dehazing_method="nti", num_inference_steps=4, batch_size=2)
    plain = dehaze(shipped, pictures(32), settings, density=even(2, 32))
    solved = dehaze(shipped, pictures(32), replace(settings, dehazing_method="nti+fixed-point"))
    assert plain.inversion.nfe == [4, 4]
    assert min(solved.inversion.nfe) > 4


def test_words_change_a_picture_only_where_the_map_says(shipped: Model) -> None:
    """No haze said anywhere: the round trip. Haze said on one side: that side changes more."""
    hazy = pictures(32, 2)
    settings = DehazeSettings(num_inference_steps=10, batch_size=2)
    density = even(2, 32, 0.0)
    assert float(psnr(dehaze(shipped, hazy, settings, density=density).result.clamp(0, 1), hazy).min()) > 35
    density[..., 16:] = 0.7
    change = (dehaze(shipped, hazy, settings, density=density).result - hazy).square().mean((0, 1, 2))
    assert float(change[20:].mean()) > 3 * float(change[:12].mean())


def test_the_airlight_is_taken_out_before_and_put_back_after(shipped: Model) -> None:
    """A picture under dim airlight is treated as the same picture under white airlight."""
    hazy, airlight = pictures(32, 2), torch.tensor([[0.6, 0.6, 0.7], [0.5, 0.6, 0.6]])
    settings = DehazeSettings(num_inference_steps=4, batch_size=2)
    dim = dehaze(shipped, hazy * airlight.view(2, 3, 1, 1), settings, density=even(2, 32), airlight=airlight)
    bright = dehaze(shipped, hazy, settings, density=even(2, 32))
    torch.testing.assert_close(dim.result, bright.result * airlight.view(2, 3, 1, 1), atol=1e-3, rtol=1e-3)


def test_round_trip_under_the_same_prompt_is_above_forty_decibels(shipped: Model) -> None:
    """The default method at its default tolerance."""
    hazy = pictures(32, 6)
    same = DehazeSettings(prompt="haze", target_prompt="haze")
    assert float(psnr(dehaze(shipped, hazy, same).result.clamp(0, 1), hazy).mean()) > 40


def test_a_result_that_shows_something_else_is_no_success() -> None:
    photos = pictures(32, 6)
    better = (photos - 0.2).clamp(0, 1)
    assert {v.name for v in judge_edit(photos, better)} <= {"cleared", "gently"}
    another = judge_edit(photos, better.roll(1, 0))
    assert {v.name for v in another} <= {"collapsed", "gently", "unchanged"}
    assert all(v.strength < 1 and v.reason.endswith(".") for v in another)
    assert {v.name for v in judge_edit(photos, photos)} == {"unchanged"}
