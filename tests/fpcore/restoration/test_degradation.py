"""What a photograph still says: projections that keep it exactly, in floats and in the integers that are published."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fpcore.restoration.degradation import Average, Degradation, Grey, Hole, fill_smoothly
from fpcore.restoration.full_resolution import colour, enlarge, fill, invented


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pictures(count: int, side: int, seed: int = 1) -> Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def damages() -> list[Degradation]:
    truth = pictures(2, 16)
    hole = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    hole[0, :, 3:9, 4:12] = True
    hole[1, :, 0:5, 0:5] = True
    return [Grey.of(truth), Hole(truth, hole), Average(truth, 2), Average(truth, 4)]


@pytest.mark.parametrize("damage", damages(), ids=["grey", "hole", "x2", "x4"])
def test_a_projection_agrees_with_the_photograph_and_is_one(damage: Degradation) -> None:
    x = noise(*damage.start().shape)
    kept = damage.project(x)
    assert float(damage.error(kept).max()) < 1e-12, "A P(x) = y"
    assert torch.allclose(damage.project(kept), kept), "P P = P"
    assert float(damage.error(damage.start()).max()) < 1e-12, (
        "the start invents nothing that contradicts the photograph"
    )
    other = damage.project(noise(*x.shape, seed=5))
    both = damage.project(2 * x - noise(*x.shape, seed=5))
    assert torch.allclose(both, 2 * kept - other), "P is affine: extrapolated estimates agree as well"


@pytest.mark.parametrize("damage", damages(), ids=["grey", "hole", "x2", "x4"])
def test_what_leaves_the_gamut_is_made_fainter_and_still_agrees(damage: Degradation) -> None:
    inside = damage.in_gamut(3 * noise(*damage.start().shape))
    assert float(inside.min()) > -1e-9
    assert float(inside.max()) < 1 + 1e-9
    assert float(damage.error(inside).max()) < 1e-9
    assert torch.allclose(damage.in_gamut(inside), inside), "what fits is left alone"


def test_rows_are_those_of_their_photographs() -> None:
    for damage in damages():
        x = noise(*damage.start().shape)
        assert torch.equal(damage.rows(torch.tensor([1])).project(x[1:]), damage.project(x)[1:])


def test_a_hole_is_filled_by_its_border_without_a_step() -> None:
    y, x = torch.meshgrid(torch.linspace(0, 1, 48), torch.linspace(0, 1, 48), indexing="ij")
    plane = torch.stack([x, y, (x + y) / 2])[None]
    hole = torch.zeros(1, 1, 48, 48, dtype=torch.bool)
    hole[..., 12:30, 15:40] = True
    filled = fill_smoothly(plane * ~hole, hole)
    assert float((filled - plane).abs().max()) < 0.02, "a linear picture is harmonic"
    assert torch.equal(torch.where(hole, 0, filled), plane * ~hole)
    assert torch.equal(fill_smoothly(plane, torch.ones_like(hole)), torch.full_like(plane, 0.5))


def test_a_plate_goes_on_with_the_slope_where_a_membrane_is_level() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 48), indexing="ij")
    bowl = (0.9 - 0.4 * (x**2 + y**2))[None, None].expand(1, 3, -1, -1)
    hole = torch.zeros(1, 1, 48, 48, dtype=torch.bool)
    hole[..., 16:32, 14:34] = True
    errors = [float((fill_smoothly(bowl * ~hole, hole, plate=p) - bowl).abs().max()) for p in (False, True)]
    assert errors[1] < errors[0] / 2
    filled = fill_smoothly(bowl * ~hole, hole, plate=True)
    assert torch.equal(torch.where(hole, 0, filled), bowl * ~hole)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_published_colours_leave_the_luma_within_rounding(dtype: type) -> None:
    peak = np.iinfo(dtype).max
    rng = np.random.default_rng(0)
    smooth = np.asarray(Image.fromarray(rng.random((9, 12), np.float32)).resize((90, 70), Image.Resampling.BICUBIC))
    luma = np.rint(smooth.clip(0, 1) * peak).astype(dtype)
    photo = np.repeat(luma[..., None], 3, 2)
    source = torch.from_numpy(np.array(Image.fromarray(smooth).resize((16, 16), Image.Resampling.BOX)))
    source = source.clamp(0, 1).expand(3, -1, -1).float()
    result = Grey.of(source[None]).in_gamut(source[None] + 0.5 * noise(1, 3, 16, 16).float())[0]
    coloured = colour(photo, source, result)
    assert coloured.dtype == dtype
    apart = coloured.max(2).astype(int) - coloured.min(2)
    assert apart.mean() > 0.05 * peak, "there are colours"
    said = np.rint(coloured.astype(np.float64) @ np.array([0.299, 0.587, 0.114]))
    assert np.abs(said - luma).max() <= 1
    assert (said == luma).mean() > 0.998  # the others are one level off: three colours round, and their sum with them
    assert invented(photo, coloured).shape == luma.shape


def test_pixels_outside_the_hole_are_the_photographs_own_and_inside_there_is_no_seam() -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:120, 0:160] / 160
    photo = np.stack([200 * x, 120 * y, 100 + 0 * x], 2).astype(np.uint8)
    photo[:40] += rng.integers(0, 30, (40, 160, 3), np.uint8)
    hole = np.zeros((120, 160), bool)
    hole[60:90, 50:110] = True
    tinted = torch.from_numpy(photo.astype(np.float32) / 255).permute(2, 0, 1)
    small = torch.nn.functional.interpolate(tinted[None], (32, 32), mode="area")[0] + 0.2  # 51 levels too bright
    filled = fill(photo, hole, small)
    assert (filled[~hole] == photo[~hole]).all()
    assert np.abs(filled[hole].astype(int) - photo[hole]).max() < 12, "the membrane took the tint away"
    assert (fill(photo, np.zeros_like(hole), small) == photo).all()


@pytest.mark.parametrize("factor", [2, 4])
def test_an_enlarged_photograph_averages_back_to_itself(factor: int) -> None:
    photo = np.random.default_rng(2).integers(0, 256, (12, 20, 3), np.uint8)
    damage = Average(torch.from_numpy(photo / 255.0).permute(2, 0, 1)[None], factor)
    wide = enlarge(damage.in_gamut(damage.start() + 0.3 * noise(1, 3, 12 * factor, 20 * factor))[0], photo)
    blocks = wide.reshape(12, factor, 20, factor, 3).astype(float).mean((1, 3))
    assert np.abs(blocks - photo).max() <= 0.5
