"""Haze rendered on clear photographs: the scattering model holds, near things stay clear, and each kind is what it is called."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fpcore.builtin import real_haze
from fpcore.builtin.demo_photographs import clear_photographs
from fpcore.builtin.real_haze import RealHaze, render_real_haze
from fpcore.dehazing import train_haze_density
from fpcore.dehazing.train_haze_density import CROP, jittered_guess, segments_of

KINDS = ("PATCHY", "OUTSHONE", "UNEVEN_LIGHT", "BEHIND_DARK", "OVERALL")


@pytest.fixture(scope="module")
def photographs() -> tuple[Tensor, Tensor]:
    """Crops (B, 3, S, S) in [0, 1] of free photographs, and their segments."""
    pixels = [photograph[:CROP, :CROP].copy() for _, photograph in clear_photographs()] * 4
    segments = torch.stack([torch.from_numpy(segments_of(x)) for x in pixels])
    return torch.stack([torch.from_numpy(x).permute(2, 0, 1) for x in pixels]).float() / 255, segments


def haze_of_kind(photographs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, kind: str = "") -> RealHaze:
    """All hazes of one kind, and none of the others; no camera."""
    for name in KINDS:
        monkeypatch.setattr(real_haze, name, float(name == kind))
    generator = torch.Generator().manual_seed(3)
    return render_real_haze(*photographs, generator, clear_share=0, hide=False, camera=False)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["", *KINDS])
def test_the_scattering_model_holds(
    photographs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """I lies between the scene and the airlight; where there is no haze it is the scene."""
    haze = haze_of_kind(photographs, monkeypatch, kind)
    t = torch.exp(-haze.tau)
    veil = haze.image - haze.clear * t  # A (1 − t), A within what it changes from side to side
    airlight = veil / (1 - t).clamp_min(1e-6)
    inside = (haze.image > 0) & (haze.image < 1) & (t < 0.9)
    slope = (airlight / haze.airlight)[inside.expand_as(airlight)]
    assert 0.3 < float(slope.min()) < float(slope.max()) < 1.8
    assert float((slope - 1).abs().mean()) < (0.2 if kind == "UNEVEN_LIGHT" else 0.06)
    assert float(veil[(haze.tau == 0).expand_as(veil)].abs().sum()) < 1e-3
    assert float(haze.tau.min()) >= 0
    assert float(haze.tau.max()) <= real_haze.DEEPEST


def test_near_things_are_often_clear(photographs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the hazes are about even; of the others most begin behind the nearest thing."""
    nearest = haze_of_kind(photographs, monkeypatch).tau.amin((1, 2, 3))
    assert 0.2 < float((nearest < 0.05).float().mean()) < 0.8


def test_between_patches_the_air_is_clear(photographs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    share = {kind: (haze_of_kind(photographs, monkeypatch, kind).tau < 0.01).float().mean() for kind in ("", "PATCHY")}
    assert float(share["PATCHY"]) > float(share[""]) + 0.1


def test_what_outshines_the_haze_is_clear(photographs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """The brightest parts of the scene have next to no haze before them, and the haze is darker than it would be."""
    haze = haze_of_kind(photographs, monkeypatch, "OUTSHONE")
    luma = haze.clear.mean(1, keepdim=True)
    brightest = luma >= luma.amax((2, 3), keepdim=True) - 1e-6
    assert float(haze.tau[brightest].mean()) < 0.2 * float(haze.tau[~brightest].mean())
    usual = haze_of_kind(photographs, monkeypatch)
    assert float(haze.airlight.mean()) < 0.9 * float(usual.airlight.mean())


def test_the_same_seed_renders_the_same(photographs: tuple[Tensor, Tensor]) -> None:
    first, second = (render_real_haze(*photographs, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.tau, second.tau)


def test_some_pictures_are_divided_by_an_airlight_that_is_far_off(
    photographs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    haze = render_real_haze(*photographs, torch.Generator().manual_seed(1), clear_share=0, hide=False)
    error = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(train_haze_density, "FAR_OFF", share)
        guess = jittered_guess(haze, torch.Generator().manual_seed(2))
        assert 0.1 <= float(guess.min()) <= float(guess.max()) <= 1.1001
        error.append(float((guess / haze.airlight).log().abs().mean()))
    assert error[1] > error[0] + 0.1
