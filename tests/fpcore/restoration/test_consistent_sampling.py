"""Regeneration held to what is known: its fixed points against a denoiser in closed form, and its records."""

import pytest
import torch
from torch import Tensor

from fpcore.builtin.train import cosine_betas
from fpcore.inversion.criteria import Status
from fpcore.inversion.gaussian_mixture import GaussianMixture
from fpcore.inversion.invert import Cancelled, invert
from fpcore.inversion.methods import method
from fpcore.inversion.sample import Descent, sample, sample_consistently
from fpcore.inversion.schedule import Schedule
from fpcore.restoration.restore import up_to
from fpcore.restoration.tiles import in_tiles, places

METHODS = ["certified", "intra-path", "inter-path", "aidi"]


def log_schedule(steps: int) -> Schedule:
    alphas = torch.cumprod(1 - torch.tensor(cosine_betas(), dtype=torch.float64), 0)
    level = torch.log(1 / alphas - 1)
    wanted = torch.linspace(float(level[5]), float(level[-1]), steps, dtype=torch.float64)
    t = (level - wanted[:, None]).abs().argmin(1)
    before = torch.cat([torch.tensor([0]), t[:-1]])
    return Schedule.from_alphas(t, alphas[before], alphas[t], "v_prediction")


def mixture(schedule: Schedule, side: int = 6) -> GaussianMixture:
    draw = torch.Generator().manual_seed(0)
    means = 0.5 * torch.randn((3, 3, side, side), generator=draw, dtype=torch.float64)
    return GaussianMixture(
        means, torch.tensor([0.05, 0.1, 0.02]).double(), torch.tensor([0.3, 0.3, 0.4]).double(), schedule
    )


def half_known(truth: Tensor) -> tuple[Tensor, Tensor]:
    hole = torch.rand(truth.shape[1:], generator=torch.Generator().manual_seed(3)) < 0.4
    return hole, truth


@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_every_step_is_a_fixed_point_of_project_after_denoise(name: str) -> None:
    schedule = log_schedule(12)
    world, chosen = mixture(schedule), method(name, tolerance=1e-4)
    truth = world.draw(5, torch.Generator().manual_seed(1))
    hole, _ = half_known(truth)
    inverted = invert(world.predict, schedule, truth, chosen)

    def project(x0: Tensor, rows: Tensor) -> Tensor:
        return torch.where(hole, x0, truth[rows])

    walk = sample_consistently(world.predict, schedule, inverted.latents, chosen, project, batch_size=3)
    assert set(walk.status) == {Status.CONVERGED}
    assert torch.equal(walk.latents[:, ~hole], truth[:, ~hole]), "what is known comes back as it is"
    apart = (walk.latents - truth)[:, hole].square().mean().sqrt()
    assert float(apart) < 0.25, "and tells which of the three pictures it was"
    r = walk.records
    assert set(r.step) == set(range(11)), "a record for each step down"
    last = [r.intra[(r.image == i) & (r.step == s)][-1] for i in range(5) for s in range(11)]
    assert max(last) < 0.05
    assert (r.rate >= float(Descent.of(schedule).rate.min()) - 1e-12).all()


def test_the_rate_of_a_step_down_is_that_of_the_step_up_between_the_same_levels() -> None:
    schedule = log_schedule(12)
    up, down = schedule.rate[1:], Descent.of(schedule).rate.flip(0)
    assert torch.allclose(up, down)


def test_on_one_gaussian_the_fixed_point_is_the_one_known_in_closed_form() -> None:
    """x0(x) = m + λ/(λ + σ²) (x − m), so x' = (1 − r) x + r x0(x') is linear, and can be solved by hand."""
    schedule, lam = log_schedule(10), 0.2
    mean = torch.full((1, 3, 4, 4), 0.3, dtype=torch.float64)
    world = GaussianMixture(mean, torch.tensor([lam]).double(), torch.ones(1).double(), schedule)
    z = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    walk = sample_consistently(world.predict, schedule, z, method("certified", tolerance=1e-8), lambda x0, rows: x0)
    x, sigma = z / schedule.signal[-1] - mean, (schedule.noise / schedule.signal).flip(0)
    for s, r in zip(sigma[1:], Descent.of(schedule).rate, strict=True):
        x = (1 - r) * x / (1 - r * lam / (lam + s**2))
    expected = mean + lam / (lam + sigma[-1] ** 2) * x
    assert float((walk.latents - expected).abs().max()) < 1e-6


def test_without_a_projection_it_agrees_with_explicit_sampling_ever_closer() -> None:
    errors = []
    for steps in (10, 40):
        schedule = log_schedule(steps)
        world = mixture(schedule)
        z = torch.randn((4, 3, 6, 6), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        walk = sample_consistently(world.predict, schedule, z, method("certified"), lambda x0, rows: x0)
        errors.append(float((walk.latents - sample(world.predict, schedule, z)).square().mean().sqrt()))
    assert errors[1] < 0.5 * errors[0], "both are first-order methods of one differential equation"


def test_it_stops_when_asked_and_flow_is_refused() -> None:
    schedule = log_schedule(6)
    world, z = mixture(schedule), torch.zeros(1, 3, 6, 6, dtype=torch.float64)
    with pytest.raises(Cancelled):
        sample_consistently(world.predict, schedule, z, method("certified"), lambda x, r: x, should_stop=lambda: True)
    flow = Schedule(torch.tensor([1, 2]), 1 - torch.tensor([0.0, 0.5]), torch.tensor([0.0, 0.5]),
                    1 - torch.tensor([0.5, 1.0]), torch.tensor([0.5, 1.0]), "flow")  # fmt: skip
    with pytest.raises(ValueError, match="DDIM"):
        Descent.of(flow)


def test_a_noise_level_cuts_the_schedule() -> None:
    schedule = log_schedule(12)
    cut = up_to(schedule, 1.0)
    assert float((cut.noise / cut.signal).max()) <= 1.0
    assert len(up_to(schedule, 0.0)) == 2
    assert len(up_to(schedule, float("inf"))) == 12


def test_tiles_cover_everything_and_agree_with_the_whole_where_the_network_is_local() -> None:
    assert places(8, 8) == [0]
    assert [places(40, 16)[i] for i in (0, -1)] == [0, 24]
    assert all(b - a <= 12 for a, b in zip(places(99, 16), places(99, 16)[1:], strict=False))
    z = torch.randn((2, 3, 20, 33), generator=torch.Generator().manual_seed(0))
    asked: list[int] = []

    def local(z: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        asked.append(z.shape[-1])
        return z * t.view(-1, 1, 1, 1) + rows.view(-1, 1, 1, 1)

    t, rows = torch.tensor([2, 5]), torch.tensor([7, 3])
    assert torch.allclose(in_tiles(local, 16)(z, t, rows), local(z, t, rows), atol=1e-5)
    assert asked[0] == 16


def test_a_method_that_asks_about_the_level_left_is_refused() -> None:
    schedule = log_schedule(4)
    world = mixture(schedule)
    with pytest.raises(ValueError, match="choose another method"):
        sample_consistently(world.predict, schedule, torch.zeros(1, 3, 6, 6), method("ddim-left"), lambda x0, rows: x0)
