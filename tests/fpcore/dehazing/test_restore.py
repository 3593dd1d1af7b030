"""Rendering in few passes gives what the formula says, pixel by pixel; the plan of it leaves no halo and no blotch."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.color_transfer import AffineMap
from fpcore.dehazing.haze_estimate import HazeEstimate
from fpcore.dehazing.restore import Restoration, box_mean, plan_restoration, restore, restore_picture

HEIGHT, WIDTH = 97, 130


def planned(balanced: bool, toned: bool) -> Restoration:
    """Of random maps, 12 × 16."""
    g = torch.Generator().manual_seed(3)
    depth = torch.cat([torch.randn(3, 12, 16, generator=g), 0.3 + torch.rand(1, 12, 16, generator=g)])
    most, airlight = 1 + 4 * torch.rand(12, 16, generator=g), torch.tensor([0.8, 0.75, 0.7])
    tint = 1 + 3 * torch.rand(12, 16, generator=g)
    plan = Restoration(depth, most, tint, airlight, airlight.mean() / airlight if balanced else torch.ones(3))
    if not toned:
        return plan
    matrix = torch.eye(3).view(1, 3, 3, 1, 1) + 0.1 * torch.randn(1, 3, 3, 12, 16, generator=g)
    return dataclasses.replace(plan, tone=AffineMap(matrix, 0.05 * torch.randn(1, 3, 12, 16, generator=g)))


def formula(r: Restoration, picture: Tensor, share: Tensor) -> Tensor:
    """I + s (tone(b (g Y(D) + min(g, c) (D − Y(D)) + A)) − I), D = I − A, g = min(e^τ, most), in float64, (3, H, W) in [0, 1]."""

    def full(x: Tensor) -> Tensor:
        return F.interpolate(x.double().flatten(0, -3)[None], picture.shape[1:], mode="bilinear")[0]

    depth, airlight, balance = full(r.depth), r.airlight.double().view(3, 1, 1), r.balance.double().view(3, 1, 1)
    tau = ((depth[:3] * picture).sum(0) + depth[3]).clamp_min(0)
    beyond, gain = picture - airlight, torch.minimum(tau.exp(), full(r.most_gain[None]))
    y = torch.einsum("chw,c->hw", beyond, torch.tensor([0.299, 0.587, 0.114]).double())
    clear = (gain * y + torch.minimum(gain, full(r.most_tint[None])) * (beyond - y) + airlight) * balance
    if r.tone is not None:
        matrix = full(r.tone.matrix[0]).unflatten(0, (3, 3))
        clear = torch.einsum("ijhw,jhw->ihw", matrix, clear) + full(r.tone.offset[0])
    return picture + share * (clear - picture)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("toned", [False, True])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rendering_is_the_formula_within_one_level(dtype: type, balanced: bool, toned: bool, masked: bool) -> None:
    rng, full = np.random.default_rng(0), np.iinfo(dtype).max
    pixels = rng.integers(0, full, (HEIGHT, WIDTH, 3), dtype, endpoint=True)
    mask = rng.random((HEIGHT, WIDTH)) if masked else None
    share = torch.tensor(0.8) * (1 if mask is None else torch.from_numpy(mask))
    plan = planned(balanced, toned)
    expected = formula(plan, torch.from_numpy(pixels.astype(np.float64) / full).permute(2, 0, 1), share)
    wanted = (expected * full).clamp(0, full).permute(1, 2, 0).numpy()
    assert np.abs(restore(plan, pixels, 0.8, mask) - wanted).max() <= (0.51 if full == 255 else 1)


@pytest.mark.parametrize("shape", [(12, 16), (1, 7), (40, 30)])
def test_window_means_by_running_sums_are_window_means(shape: tuple[int, int]) -> None:
    x = torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows, columns = (torch.arange(n) for n in shape)
    for radius in (1, 5, 30):
        near_y, near_x = ((at[:, None] - at).abs() <= radius for at in (rows, columns))
        weights = torch.einsum("ya,xb->yxab", near_y.double(), near_x.double())
        means = torch.einsum("yxab,cab->cyx", weights, x) / weights.sum((2, 3))
        torch.testing.assert_close(box_mean(x, radius), means, atol=1e-12, rtol=0)


def test_no_halo_around_what_is_near_and_dark() -> None:
    """The network is far surer of a black thing than of the fog behind it; the fog beside the thing is taken off all the same."""
    generator = torch.Generator().manual_seed(0)
    picture = 0.7 + 0.01 * torch.randn(3, 64, 96, generator=generator)
    tau, spread = torch.ones(64, 96), torch.full((64, 96), 0.4)
    picture[:, :, 40:56], tau[:, 40:56], spread[:, 40:56] = 0.08, 0.0, 0.01
    e = HazeEstimate(picture, tau, spread, torch.full((3,), 0.9), torch.ones(64, 96), 0.0, 3)
    depth = plan_restoration(e, torch.full((64, 96), 0.02)).depth
    found = (depth[:3] * picture).sum(0) + depth[3]
    assert float(found[:, 57:].min()) > 0.8
    assert float(found[:, 41:55].max()) < 0.1


def test_flat_parts_that_show_something_are_restored_as_a_whole() -> None:
    """Only flat haze, which is close to the airlight, is held back: no pale blotches on plain ground."""
    picture = torch.full((3, 32, 32), 0.55)
    e = HazeEstimate(
        picture, torch.ones(32, 32), torch.full((32, 32), 0.3), torch.full((3,), 0.9), torch.ones(32, 32), 0.5, 3
    )
    assert float(plan_restoration(e, torch.full((32, 32), 0.006)).most_gain.min()) > 9
    sky = dataclasses.replace(e, picture=picture + 0.33)
    assert float(plan_restoration(sky, torch.full((32, 32), 0.006)).most_gain.max()) < 5


def test_a_pale_sky_with_the_blocks_of_jpeg_gets_no_colours_and_what_is_beneath_does() -> None:
    blocks = (
        torch.randn((2, 8, 16), generator=torch.Generator().manual_seed(0))
        .repeat_interleave(8, 1)
        .repeat_interleave(8, 2)
    )
    sky = torch.full((3, 64, 128), 0.88)
    sky[[0, 2]] += 0.006 * blocks
    ground = 0.45 + 0.2 * torch.rand((3, 64, 128), generator=torch.Generator().manual_seed(1))
    picture, texture = (
        torch.cat([sky, ground], 1),
        torch.cat([torch.full((64, 128), 0.003), torch.full((64, 128), 0.05)]),
    )
    tau, there = torch.full((128, 128), 1.8), torch.ones(128, 128)
    e = HazeEstimate(picture, tau, 0.3 * there, torch.full((3,), 0.95), there, 0.4, 3)
    plan = plan_restoration(e, texture)
    cleared = restore_picture(plan, picture)

    def colourful(x: Tensor) -> float:
        return float((x[[0, 2]] - x.mean(0)).std())

    assert colourful(cleared[:, :56]) < 1.5 * colourful(picture[:, :56])
    assert colourful(cleared[:, 80:]) > 4 * colourful(picture[:, 80:])
    assert float(plan.most_tint[:56].std()) < 1e-6, "one limit for a sky: no patches"


def test_a_sky_that_turns_blue_little_by_little_turns_as_evenly_when_it_is_cleared() -> None:
    """No band of deep blue where a limit of colour would end."""
    height = torch.linspace(1, 0, 96)[:, None].expand(96, 128)
    sky = torch.stack([0.9 - 0.35 * height, 0.9 - 0.2 * height, 0.9 - 0.05 * height])
    sky = (sky * 255).round() / 255
    there = torch.ones(96, 128)
    e = HazeEstimate(sky, 0.6 * there, 0.3 * there, torch.full((3,), 0.9), there, 0.3, 3)
    cleared = restore_picture(plan_restoration(e, torch.full((96, 128), 0.003)), sky)
    rows = (cleared[2] - cleared[0]).mean(1)
    steps = (rows[:-8] - rows[8:])[8:-8]
    assert float(steps.max()) < 1.3 * float(steps.median())
    assert float(steps.min()) > 0.7 * float(steps.median())


def test_a_sky_that_is_brighter_than_the_airlight_does_not_glare() -> None:
    """It stays as it is, and gets no edge; what is textured and bright, a white wall, is cleared as before."""
    bright = torch.linspace(0.75, 0.5, 96)[:, None].expand(96, 128)
    picture, there = bright.expand(3, 96, 128).contiguous(), torch.ones(96, 128)
    e = HazeEstimate(picture, 1.2 * there, 0.3 * there, torch.full((3,), 0.55), there, 0.3, 3)
    cleared = restore_picture(plan_restoration(e, torch.full((96, 128), 0.001)), picture)
    above = picture[0, :, 64] > 0.62
    assert float((cleared - picture)[:, above].abs().max()) < 0.04
    rows = cleared[0, :, 64]
    assert bool((rows[1:] <= rows[:-1] + 1e-3).all()), "darker row by row, as the sky is"
    wall = restore_picture(plan_restoration(e, torch.full((96, 128), 0.05)), picture)
    assert float(wall[0, 0, 64]) > 1.0
