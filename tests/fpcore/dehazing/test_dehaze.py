"""Every dehazing variant by name, on the shipped model and on Stable Diffusion's architecture."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fpcore.dehazing.dehaze import HAZE_SCALE, VIEWS, DehazeSettings, Variant, _merge_views, dehaze
from fpcore.dehazing.haze_density import estimate_amount
from fpcore.dehazing.quality_gate import DOUBTFUL_PSNR, evidence_of_haze, judge
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


@pytest.mark.parametrize("variant", get_args(Variant))
@pytest.mark.parametrize("which", ["shipped", "stable_diffusion"])
def test_every_variant_runs(variant: Variant, which: str, request: pytest.FixtureRequest) -> None:
    model: Model = request.getfixturevalue(which)
    side = model.image_size[0]
    done = dehaze(model, pictures(side), DehazeSettings(variant=variant, num_inference_steps=4, batch_size=2))
    assert done.result.shape == (2, 3, side, side)
    assert done.result.isfinite().all()
    assert done.haze_map.shape[0] == 2
    assert 0 <= float(done.haze_map.min()) <= float(done.haze_map.max()) <= 1
    assert min(done.nfe) > max(4, min(done.inversion.nfe))
    if variant in ("fixed-point", "nti", "nti+fixed-point", "regenerate", "prior-weighted"):
        assert done.prompts == ("haze", "")  # the paper's words, exactly


def test_plain_inversion_only_for_nti_alone(shipped: Model) -> None:
    plain = dehaze(shipped, pictures(32), DehazeSettings(variant="nti", num_inference_steps=4, batch_size=2))
    solved = dehaze(
        shipped, pictures(32), DehazeSettings(variant="nti+fixed-point", num_inference_steps=4, batch_size=2)
    )
    assert plain.inversion.nfe == [4, 4]
    assert min(solved.inversion.nfe) > 4


def test_views_are_turned_back_and_averaged() -> None:
    picture = torch.rand((2, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    views = torch.cat([picture.flip(-1) + 0.1 if mirror else picture - 0.1 for _, mirror in VIEWS])
    torch.testing.assert_close(_merge_views(views, VIEWS), picture)


def test_default_brings_rendered_haze_closer_to_the_clear_photograph(shipped: Model) -> None:
    from fpcore.builtin.demo_photographs import clear_photographs
    from fpcore.builtin.rendered_haze import render_haze

    chosen = [p for name, p in clear_photographs() if name in ("china", "rocket", "flower", "coffee")]
    small = [np.array(Image.fromarray(p).resize((32, 32), Image.Resampling.BOX)) for p in chosen]
    clear = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255
    hazy = render_haze(clear, torch.full((4,), 0.5), torch.Generator().manual_seed(3)).image
    result = dehaze(shipped, hazy, DehazeSettings()).result.clamp(0, 1)
    assert float((psnr(result, clear) - psnr(hazy, clear)).mean()) > 3


def test_an_amount_that_was_seen_before_is_not_asked_for(shipped: Model) -> None:
    hazy, settings = pictures(32), DehazeSettings(num_inference_steps=4, batch_size=2)
    asked = dehaze(shipped, hazy, settings)
    told = dehaze(shipped, hazy, settings, seen=asked.seen)
    torch.testing.assert_close(told.result, asked.result)
    assert [a - b for a, b in zip(asked.nfe, told.nfe, strict=True)] == [156] * len(hazy)


def test_the_darkest_value_has_a_say_in_how_far_the_edit_goes(shipped: Model) -> None:
    """Something black: half as far as the model takes it; nothing dark: further. Under words of one's own it has none."""
    hazy = pictures(32, 1).repeat(3, 1, 1, 1)
    darkest, seen = torch.tensor([0.0, 0.15, 0.3]), torch.full((3,), 0.2)
    settings = DehazeSettings(num_inference_steps=4, batch_size=3)
    alone = dehaze(shipped, hazy, replace(settings, to_black=False), darkest=darkest, seen=seen).result
    done = dehaze(shipped, hazy, settings, darkest=darkest, seen=seen).result
    torch.testing.assert_close(done[0], (hazy + alone)[0] / 2)
    moved = (hazy - done).mean((1, 2, 3))
    assert 0 < float(moved[0]) < float(moved[1]) < float(moved[2])
    words = replace(settings, prompt="dense haze")
    under_words = [
        dehaze(shipped, hazy, replace(words, to_black=b), darkest=darkest, seen=seen).result for b in (True, False)
    ]
    torch.testing.assert_close(*under_words)


def test_round_trip_under_the_same_prompt_is_above_forty_decibels(shipped: Model) -> None:
    """The default method at its default tolerance, 25 steps."""
    hazy = pictures(32, 6)
    same = DehazeSettings(variant="regenerate", prompt="haze", target_prompt="haze")
    assert float(psnr(dehaze(shipped, hazy, same).result.clamp(0, 1), hazy).mean()) > 40


def test_amount_of_haze_follows_the_haze(shipped: Model) -> None:
    from fpcore.builtin.demo_photographs import clear_photographs
    from fpcore.builtin.rendered_haze import render_haze

    small = [np.array(Image.fromarray(p).resize((32, 32), Image.Resampling.BOX)) for _, p in clear_photographs()]
    clear = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255
    means = []
    for amount in (0.0, 0.35, 0.7):
        hazy = render_haze(clear, torch.full((len(clear),), amount), torch.Generator().manual_seed(0)).image
        means.append(float(estimate_amount(shipped, shipped.encode(hazy * 2 - 1), HAZE_SCALE)[0].mean()))
    assert means[0] < 0.15
    assert means[0] + 0.05 < means[1] < means[2]


def test_verdicts() -> None:
    """A result that shows something else is no success; one without gain is not applied; clear photographs stay."""
    photos = pictures(32, 6)
    better = (photos - 0.2).clamp(0, 1)
    seen = torch.full((6,), 0.5)
    assert {v.name for v in judge(photos, better, seen)} <= {"improved", "weakened"}
    another = judge(photos, better.roll(1, 0), seen)
    assert {v.name for v in another} <= {"collapsed", "weakened", "unchanged"}
    assert all(v.strength < 1 for v in another)
    assert {v.name for v in judge(photos, photos, seen)} == {"unchanged"}


def test_either_witness_is_enough_evidence_of_haze() -> None:
    """Nothing seen and something black: the photograph stays as it is. Much seen, or nothing dark, or not asked: it is edited."""
    seen = torch.tensor([0.0, 0.6, 0.0, torch.nan, 0.0, 0.30])
    darkest = torch.tensor([0.0, 0.0, 0.3, 0.0, 0.14, 0.0])
    torch.testing.assert_close(evidence_of_haze(seen, darkest), torch.tensor([0.0, 1, 1, 1, 0.5, 0.5]))
    photos = pictures(32, 6)
    strengths = [v.strength for v in judge(photos, (photos - 0.2).clamp(0, 1), seen, darkest)]
    assert strengths[0] == 0
    assert all(strengths[1:])
    assert {v.name for v in judge(photos, (photos - 0.2).clamp(0, 1), 0 * seen[:1].repeat(6), 0 * darkest)} == {
        "unchanged"
    }


def test_what_may_be_clear_is_edited_little() -> None:
    """From one value of the darkest on an edit shows, but it leaves the photograph close to itself until haze is sure."""
    photos = pictures(32, 6) * 0.7 + 0.3
    result = (photos - 0.2) / 0.8
    darkest, seen = torch.tensor([0.04, 0.05, 0.06, 0.07, 0.12, 0.16]), torch.zeros(6)
    strength = torch.tensor([v.strength for v in judge(photos, result, seen, darkest)])
    assert strength[:2].tolist() == [0, 0]
    assert 0 < strength[2] < strength[3] < strength[5] == 1
    applied = torch.lerp(photos, result, strength.view(-1, 1, 1, 1))
    kept = psnr(applied, photos)
    torch.testing.assert_close(kept[3:5], torch.full((2,), DOUBTFUL_PSNR), atol=0.05, rtol=0)
    assert kept[5] < DOUBTFUL_PSNR
    faint = torch.lerp(photos, result, 0.01)
    assert judge(photos, faint, seen, darkest)[4].strength == 1
