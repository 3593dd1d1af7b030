"""Every published method against a small independent loop, written from its paper or its released code, in fp64.

No loop here uses the engine: they know ᾱ at two timesteps and a network, one image at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fpcore.inversion.belm import TwoStepRule, invert_exactly, sample_exactly
from fpcore.inversion.edict import invert_coupled, sample_coupled
from fpcore.inversion.flow_samplers import Controllers, FlowSampler, flow_evaluations, invert_flow, sample_flow
from fpcore.inversion.invert import invert
from fpcore.inversion.methods import method
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from fpcore.inversion.spdinv import invert_spd
from tests.fpcore.closed_form import mixture, sd_schedule

Loop = Callable[[Schedule, "Network", Tensor], Tensor]
STEPS = 20


class Network:
    """ε at one state and one step of the schedule, counting its calls."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.model, self.calls = schedule, mixture(schedule), 0

    def __call__(self, z: Tensor, step: int) -> Tensor:
        self.calls += 1
        t = self.schedule.timesteps[step : step + 1]
        return self.model.predict(z[None], t, torch.zeros(1, dtype=torch.long))[0]


def ddim_up(schedule: Schedule, step: int, z: Tensor, eps: Tensor) -> Tensor:
    """DDIM from the step's start to its end with that ε, by way of x0."""
    before, after = float(schedule.alpha_prev[step]), float(schedule.alpha[step])
    x0 = (z - (1 - before) ** 0.5 * eps) / before**0.5
    return after**0.5 * x0 + (1 - after) ** 0.5 * eps


def ddim(schedule: Schedule, network: Network, z: Tensor) -> Tensor:
    for i in schedule.real.tolist():
        z = ddim_up(schedule, i, z, network(z, i))
    return z


def fixed_point(schedule: Schedule, network: Network, z: Tensor) -> Tensor:
    for i in schedule.real.tolist():
        base = z
        for _ in range(10):
            z = ddim_up(schedule, i, base, network(z, i))
    return z


def easyinv(schedule: Schedule, network: Network, z: Tensor, eta: float = 0.5, first: int = 2, last: int = 4) -> Tensor:
    """As released: ε at the state as it is, then the state blended with the one before the last step (i = 3…12 of 50)."""
    last_latent = z
    for i in range(len(schedule)):
        eps = network(z, i)
        if first <= i <= last:
            z = eta * z + (1 - eta) * last_latent
        last_latent = z
        z = ddim_up(schedule, i, z, eps)
    return z


def easyinv_xl(schedule: Schedule, network: Network, z: Tensor) -> Tensor:
    return easyinv(schedule, network, z, eta=0.8, first=18, last=18)


def renoise(schedule: Schedule, network: Network, z: Tensor, most: int = 9) -> Tensor:
    """As released, without noise regularisation: K renoising steps, the mean of ε over a range, by timestep."""
    for i in schedule.real.tolist():
        early = int(schedule.timesteps[i]) < 250
        rounds, (first, end) = (min(5, most), (0, 5)) if early else (most, (8, 10))
        base, seen = z, []
        for k in range(rounds + 1):
            eps = network(z, i)
            if first <= k < end:
                seen.append(eps)
            z = ddim_up(schedule, i, base, eps)
        if seen:
            z = ddim_up(schedule, i, base, torch.stack(seen).mean(0))
    return z


def renoise_sd(schedule: Schedule, network: Network, z: Tensor) -> Tensor:
    return renoise(schedule, network, z, most=1)


def aidi(schedule: Schedule, network: Network, z: Tensor) -> Tensor:
    """Anderson acceleration over the last two differences, least squares by lstsq; until RMS(f(z) − z) < 1e-6."""
    for i in schedule.real.tolist():
        base, states, values = z, [], []
        for _ in range(50):
            f = ddim_up(schedule, i, base, network(z, i))
            states, values = [*states, z][-3:], [*values, f][-3:]
            residuals = [(b - a).flatten() for a, b in zip(states, values, strict=True)]
            if float(residuals[-1].square().mean().sqrt()) < 1e-9:
                break
            if len(residuals) > 1:
                differences = torch.stack([residuals[-1] - r for r in residuals[:-1]], 1)
                gamma = torch.linalg.lstsq(differences, residuals[-1][:, None]).solution
                change = torch.stack([(f - v).flatten() for v in values[:-1]], 1)
                z = f - (change @ gamma).view_as(f)
            else:
                z = f
        z = f
    return z


def ddim_left(schedule: Schedule, network: Network, z: Tensor) -> Tensor:
    """The fixed point solved for z_t with x0 + e in the place of the network's x0, e being the error one level below."""
    x0 = z / float(schedule.alpha_prev[0]) ** 0.5
    for i in schedule.real.tolist():
        before, after = float(schedule.alpha_prev[i]), float(schedule.alpha[i])
        eps = network(z, max(i - 1, 0))
        error = (z - (1 - before) ** 0.5 * eps) / before**0.5 - x0
        psi = (1 - after) ** 0.5 - (after / before) ** 0.5 * (1 - before) ** 0.5
        share = psi / (1 - after) ** 0.5
        z = ((after / before) ** 0.5 * z - share * after**0.5 * (x0 + error)) / (1 - share)
    return z


LOOPS: dict[str, tuple[Loop, dict[str, object]]] = {
    "ddim": (ddim, {}),
    "fixed-point": (fixed_point, {"iterations": 10}),
    "easyinv": (easyinv, {}),
    "easyinv-sdxl": (easyinv_xl, {}),
    "ddim-left": (ddim_left, {}),
    "renoise": (renoise, {}),
    "renoise-sd": (renoise_sd, {}),
}


@pytest.mark.parametrize("name", list(LOOPS))
def test_a_method_is_what_its_loop_is(name: str) -> None:
    schedule = sd_schedule(STEPS)
    loop, options = LOOPS[name]
    network = Network(schedule)
    z0 = network.model.draw(2, torch.Generator().manual_seed(0))
    expected = torch.stack([loop(schedule, network, z) for z in z0])
    found = invert(network.model.predict, schedule, z0, method(name, **options))  # type: ignore[arg-type]
    torch.testing.assert_close(found.latents, expected, rtol=1e-10, atol=1e-10)
    assert sum(found.nfe) == network.calls


@pytest.mark.long
def test_accelerated_and_plain_methods_find_the_same_fixed_points() -> None:
    """AIDI's own loop, and the criteria that iterate to a tolerance."""
    schedule = sd_schedule(STEPS)
    network = Network(schedule)
    z0 = network.model.draw(2, torch.Generator().manual_seed(0))
    expected = torch.stack([aidi(schedule, network, z) for z in z0])
    for name in ("aidi", "intra-path", "certified"):
        found = invert(network.model.predict, schedule, z0, method(name, tolerance=1e-9, max_iterations=300))
        torch.testing.assert_close(found.latents, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [(0, 1, 2, 3, 4, 5), (10, 11)])
def test_spdinv_is_its_released_loop(steps: tuple[int, ...]) -> None:
    """AdamW at 1e-3 on MSE(z, f(z)), at most 25 updates, stopped after the update whose loss was below 5e-6.

    Six large steps, which end at the limit, and two small ones, where each image stops by itself.
    """
    schedule = sd_schedule(6 if len(steps) == 6 else 30).take(torch.tensor(steps))
    network = Network(schedule)
    z0 = network.model.draw(2 if len(steps) == 6 else 3, torch.Generator().manual_seed(0))
    expected = []
    for z in z0:
        for i in schedule.real.tolist():
            base = z
            z = ddim_up(schedule, i, base, network(z, i)).detach().clone().requires_grad_()
            optimiser = torch.optim.AdamW([z], lr=1e-3)
            for _ in range(25):
                optimiser.zero_grad()
                loss = torch.nn.functional.mse_loss(z, ddim_up(schedule, i, base, network(z, i)))
                loss.backward()
                optimiser.step()
                if loss < 5e-6:
                    break
            z = z.detach()
        expected.append(z)
    found = invert_spd(network.model.predict, schedule, z0)
    torch.testing.assert_close(found.latents, torch.stack(expected), rtol=1e-6, atol=1e-6)
    assert sum(found.nfe) == network.calls
    assert len(set(found.nfe)) == (2 if len(steps) == 2 else 1)


@pytest.mark.parametrize("rule", ["o-belm", "bdia"])
def test_two_step_samplers_walk_their_papers_equations(rule: TwoStepRule) -> None:
    """BDIA's Eq. in z, and O-BELM's in x, from the pair that inversion found down to the picture."""
    schedule = sd_schedule(12)
    real = schedule.take(schedule.real)
    network = Network(real)
    z0 = network.model.draw(1, torch.Generator().manual_seed(0))
    pair = invert_exactly(network.model.predict, schedule, z0, rule=rule)
    signal = [float(real.signal_prev[0]), *real.signal.tolist()]
    noise = [float(real.noise_prev[0]), *real.noise.tolist()]
    ahead, z = pair.last[0], pair.before[0]
    for i in reversed(range(1, len(real))):  # z stands at level i, ahead at level i + 1
        eps = network(z, i - 1)
        down = signal[i - 1] * (z - noise[i] * eps) / signal[i] + noise[i - 1] * eps
        if rule == "bdia":
            up = signal[i + 1] * (z - noise[i] * eps) / signal[i] + noise[i + 1] * eps
            ahead, z = z, down + (ahead - up)
        else:
            sigma = [noise[k] / signal[k] for k in (i - 1, i, i + 1)]
            h, after = sigma[1] - sigma[0], sigma[2] - sigma[1]
            x = h**2 / after**2 * ahead / signal[i + 1] + (after**2 - h**2) / after**2 * z / signal[i]
            ahead, z = z, signal[i - 1] * (x - h * (h + after) / after * eps)
    torch.testing.assert_close(z, z0[0], rtol=1e-6, atol=1e-6)
    back = sample_exactly(network.model.predict, schedule, pair.last, pair.before, rule=rule)
    torch.testing.assert_close(back, z0, rtol=1e-6, atol=1e-6)


def test_edict_is_its_papers_loop() -> None:
    schedule = sd_schedule(8)
    network = Network(schedule)
    z0 = network.model.draw(1, torch.Generator().manual_seed(0))
    pair = invert_coupled(network.model.predict, schedule, z0)
    x, y, p = pair.last[0], pair.before[0], 0.93

    def down(z: Tensor, eps: Tensor, i: int) -> Tensor:
        before, after = float(schedule.alpha_prev[i]), float(schedule.alpha[i])
        return (before / after) ** 0.5 * (z - (1 - after) ** 0.5 * eps) + (1 - before) ** 0.5 * eps

    for i in reversed(schedule.real.tolist()):
        first, second = (y, x) if i % 2 else (x, y)
        first = down(first, network(second, i), i)
        second = down(second, network(first, i), i)
        first = p * first + (1 - p) * second
        second = p * second + (1 - p) * first
        x, y = (second, first) if i % 2 else (first, second)
    torch.testing.assert_close(x, z0[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(y, z0[0], rtol=1e-6, atol=1e-6)
    back = sample_coupled(network.model.predict, schedule, pair.last, pair.before)
    torch.testing.assert_close(back, z0, rtol=1e-6, atol=1e-6)


def flow(count: int) -> Schedule:
    sigma = torch.linspace(0, 1, count + 1, dtype=torch.float64) ** 0.8
    before, after = sigma[:-1], sigma[1:]
    return Schedule(after * 1000, 1 - before, before, 1 - after, after, "flow")


def velocity(z: Tensor, t: Tensor) -> Tensor:
    """A smooth field that depends on time: what a flow sampler is tried on."""
    return torch.sin(z) * (0.3 + t.double().view(-1, 1, 1, 1) / 1000) - 0.2 * z.roll(1, -1)


@pytest.mark.parametrize("name", ["rf-solver", "fireflow", "rf-inversion"])
@pytest.mark.parametrize("up", [True, False])
def test_flow_samplers_walk_their_papers_equations(name: FlowSampler, up: bool) -> None:
    schedule, calls = flow(10), 0

    def v(z: Tensor, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return velocity(z, torch.tensor([1000 * sigma]))

    z = start = torch.randn((1, 2, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z0 = torch.randn((1, 2, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = torch.randn((2, 4, 4), generator=torch.Generator().manual_seed(7)).double()[None]
    levels = [0.0, *schedule.noise.tolist()]
    levels = levels if up else levels[::-1]
    before = None
    for i, (a, b) in enumerate(itertools.pairwise(levels)):
        h = b - a
        if name == "rf-solver":  # Z + h v + ½ h² v⁽¹⁾
            first = v(z, a)
            derivative = (v(z + h / 2 * first, a + h / 2) - first) / (h / 2)
            z = z + h * first + h**2 / 2 * derivative
        elif name == "fireflow":
            before = v(z, a) if before is None else before
            before = v(z + h / 2 * before, a + h / 2)
            z = z + h * before
        elif up:
            field = v(z, a)
            z = z + h * (field + 0.5 * ((noise - z) / (1 - a) - field))
        else:
            field = v(z, a)
            z = z + h * (field + (0.9 if i < 2 else 0) * ((z - z0) / a - field))
    predict = lambda z, t, rows: velocity(z, t)  # noqa: E731
    if up:
        found = invert_flow(name, predict, schedule, start, seeds=[7])
    else:
        found = sample_flow(name, predict, schedule, start, z0, controllers=Controllers(until=0.2))
    torch.testing.assert_close(found, z, rtol=1e-6, atol=1e-6)
    assert calls == flow_evaluations(name, 10)


@pytest.mark.parametrize("name", ["rf-solver", "fireflow"])
def test_flow_samplers_are_of_second_order(name: FlowSampler) -> None:
    """Twice the steps, a quarter of the round trip's error; Euler's fixed point has none at all."""
    z0 = torch.randn((1, 2, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    predict = lambda z, t, rows: velocity(z, t)  # noqa: E731
    errors = []
    for count in (20, 40):
        schedule = flow(count)
        there = invert_flow(name, predict, schedule, z0)
        errors.append(float((sample_flow(name, predict, schedule, there, z0) - z0).norm()))
    assert errors[0] / errors[1] > 3
    exact = invert(predict, flow(20), z0, method("certified", tolerance=1e-12, max_iterations=300)).latents
    torch.testing.assert_close(sample(predict, flow(20), exact), z0, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="rectified flow"):
        invert_flow(name, predict, sd_schedule(4), z0)
