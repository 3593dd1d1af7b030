"""ReNoise with its regularisation against a loop of its own, written from the released code's formulas, in fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fpcore.inversion.criteria import Status
from fpcore.inversion.gaussian_mixture import GaussianMixture
from fpcore.inversion.invert import Cancelled, invert
from fpcore.inversion.methods import method
from fpcore.inversion.renoise import regularised
from fpcore.inversion.schedule import Schedule
from tests.fpcore.closed_form import sd_schedule
from tests.fpcore.inversion.test_invert import flow_schedule
from tests.fpcore.inversion.test_peers import ddim_up

STEPS = 3
"""Of which the first leads below timestep 250."""


def model_of(schedule: Schedule) -> GaussianMixture:
    """Two Gaussians in 4 × 16 × 16 dimensions: a pyramid of two levels, 16 patches."""
    means = torch.randn((2, 4, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    return GaussianMixture(means, torch.tensor([0.1, 0.2], dtype=torch.float64), weights, schedule)


def patches(x: Tensor) -> Tensor:
    """The 16 values of each channel of each 4 × 4 × 4 patch."""
    return x.view(1, 4, 4, 4, 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 16)


def kl(x: Tensor, other: Tensor) -> Tensor:
    p, q = patches(x), patches(other)
    spread = q.var(1) + 1e-6
    terms = torch.log(spread / (p.var(1) + 1e-6)) + (p.var(1) + (p.mean(1) - q.mean(1)) ** 2) / spread - 1
    return terms.abs().sum()


def correlation(x: Tensor, generator: torch.Generator) -> Tensor:
    terms = []
    for channel in x:
        for size in (16, 8):
            small = F.interpolate(channel[None, None], (size, size), mode="area")[0, 0]
            shift = int(torch.randint(0, size // 2, (1,), generator=generator))
            terms += [(small * small.roll(shift, axis)).mean().square() for axis in (0, 1)]
    return torch.stack(terms).sum()


def noise_like(eps: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    """Four rounds of one step on the divergence and five on the auto-correlation."""
    for _ in range(4):
        eps = eps.clone().requires_grad_()
        kl(eps, other).backward()
        eps = (eps - 0.065 * eps.grad.clip(-100, 100)).detach()  # type: ignore[union-attr]
        for _ in range(5):
            eps = eps.requires_grad_()
            correlation(eps, generator).backward()
            eps = (eps - 20 * eps.grad / 5).detach()  # type: ignore[operator]
    return eps


def loop(schedule: Schedule, z0: Tensor, most: int, seed: int) -> tuple[Tensor, int]:
    """z_T, and evaluations where the reference counts if it is used."""
    network, calls = model_of(schedule), 0

    def epsilon(z: Tensor, i: int) -> Tensor:
        nonlocal calls
        calls += 1
        return network.predict(z[None], schedule.timesteps[i : i + 1], torch.zeros(1, dtype=torch.long))[0]

    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(z0.shape, generator=generator).double()
    z = z0
    for i in schedule.real.tolist():
        early = int(schedule.timesteps[i]) < 250
        rounds, (first, end) = (min(5, most), (0, 5)) if early else (most, (8, 10))
        base, seen, reference = z, [], None
        if rounds >= first:
            alpha = float(schedule.alpha[i])
            reference = epsilon(alpha**0.5 * z0 + (1 - alpha) ** 0.5 * noise, i)
        for k in range(rounds + 1):
            eps = epsilon(z, i)
            if first <= k < end:
                seen.append(eps)
            if reference is not None and k >= first:
                eps = noise_like(eps, reference, generator)
            z = ddim_up(schedule, i, base, eps)
        if reference is not None:
            z = ddim_up(schedule, i, base, noise_like(torch.stack(seen).mean(0), reference, generator))
    return z, calls


@pytest.mark.long
@pytest.mark.parametrize(("name", "most"), [("renoise-regularised", 9), ("renoise-sd-regularised", 1)])
def test_regularised_renoise_is_its_released_loop(name: str, most: int) -> None:
    schedule = sd_schedule(STEPS)
    model = model_of(schedule)
    z0 = model.draw(2, torch.Generator().manual_seed(0))
    each = [loop(schedule, z, most, seed) for z, seed in zip(z0, (3, 4), strict=True)]
    found = invert(model.predict, schedule, z0, method(name), seeds=[3, 4], keep_trajectory=True)
    torch.testing.assert_close(found.latents, torch.stack([z for z, _ in each]), rtol=1e-6, atol=1e-6)
    assert found.nfe == [calls for _, calls in each]
    assert found.status == [Status.COMPLETED] * 2
    assert found.trajectory is not None
    assert torch.equal(found.trajectory[:, -1], found.latents)
    assert torch.equal(found.trajectory[:, 0], z0)
    # one image at a time gives the same: nothing is shared
    alone = invert(model.predict, schedule, z0[1:], method(name), seeds=[4], batch_size=1)
    torch.testing.assert_close(alone.latents, found.latents[1:], rtol=1e-9, atol=1e-9)


def test_regularised_noise_is_more_like_noise() -> None:
    """A prediction with a pattern in it loses its auto-correlation and comes nearer to the reference's patches."""
    generator = torch.Generator().manual_seed(0)
    noise, reference = torch.randn((2, 4, 16, 16), generator=generator, dtype=torch.float64)
    striped = noise + 0.5 * torch.arange(16).remainder(2)
    found = regularised(striped, reference, torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        found, noise_like(striped, reference, torch.Generator().manual_seed(1)), rtol=1e-9, atol=1e-9
    )
    at = [float(correlation(x, torch.Generator().manual_seed(2))) for x in (striped, found)]
    assert at[1] < 0.9 * at[0]
    assert float(kl(found, reference)) < float(kl(striped, reference))


def test_what_cannot_be_regularised_is_refused() -> None:
    schedule = sd_schedule(STEPS)
    chosen = method("renoise-regularised")
    thin = torch.zeros((1, 3, 8, 8), dtype=torch.float64)
    with pytest.raises(ValueError, match="4 × 4 × 4"):
        invert(model_of(schedule).predict, schedule, thin, chosen)
    flow, z0 = flow_schedule(4), torch.zeros((1, 4, 16, 16), dtype=torch.float64)
    with pytest.raises(ValueError, match="choose renoise"):
        invert(model_of(flow).predict, flow, z0, chosen)


@pytest.mark.parametrize("name", ["spdinv", "renoise-sd-regularised"])
def test_a_walk_reports_images_and_can_be_stopped(name: str) -> None:
    schedule, done = sd_schedule(2), list[int]()
    model = model_of(schedule)
    z0 = model.draw(3, torch.Generator().manual_seed(0))
    invert(model.predict, schedule, z0, method(name), batch_size=2, on_images_done=done.append)
    assert done == [2, 3]
    with pytest.raises(Cancelled):
        invert(model.predict, schedule, z0, method(name), should_stop=lambda: True)
