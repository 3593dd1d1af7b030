"""Guidance modes on a network small enough to know the answers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fpcore.editing.guidance import Guidance, direction, null_text, prepare, reverse
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Condition

STEPS = 6


@pytest.fixture(scope="module")
def schedule() -> Schedule:
    alpha = torch.linspace(0.999, 0.3, STEPS + 1).double()
    return Schedule.from_alphas(torch.arange(100, 100 * STEPS + 1, 100), alpha[:-1], alpha[1:])


class Network:
    """ε = tanh(z) + the mean of the embedding, which is all the optimisation can move. Remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.timesteps: list[int] = []

    def __call__(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.calls.append(len(z))
        self.timesteps.append(int(t[0]))
        assert len(z) == len(t) == len(condition)
        return torch.tanh(z) + condition.embeddings.mean((1, 2)).view(-1, 1, 1, 1)


def condition(*values: float) -> Condition:
    return Condition(torch.tensor(values, dtype=torch.float32).view(-1, 1, 1).expand(-1, 3, 4).clone())


def path(network: Network, schedule: Schedule, text: Condition, start: Tensor) -> Tensor:
    """(P, N + 1, …) the path that sampling at w = 1 from ``start`` takes, z_0 first: a perfect inversion."""
    z, states = start, [start]
    for step in range(STEPS):
        z = reverse(schedule, step, z, direction(network, schedule, step, z, text, Guidance(1)))
        states.append(z)
    return torch.stack(states[::-1], dim=1)


def retraced(network: Network, schedule: Schedule, text: Condition, guidance: Guidance, start: Tensor) -> Tensor:
    z = start
    for step in range(STEPS):
        z = reverse(schedule, step, z, direction(network, schedule, step, z, text, guidance))
        z = guidance.correct(step, z)
    return z


@pytest.fixture
def start() -> Tensor:
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def test_guided_direction_by_hand(schedule: Schedule, start: Tensor) -> None:
    network = Network()
    d = direction(network, schedule, 0, start, condition(1, 2, 3), Guidance(7.5, (condition(0, 0, 1),)))
    expected = torch.tensor([0 + 7.5 * 1, 0 + 7.5 * 2, 1 + 7.5 * 2])
    assert torch.allclose(d - torch.tanh(start), expected.view(-1, 1, 1, 1).expand_as(d), atol=1e-5)
    assert network.calls == [6]
    assert network.timesteps == [600], "sampling starts at the last timestep of the inversion"


def test_no_unconditional_row_is_spent_without_guidance(schedule: Schedule, start: Tensor) -> None:
    network = Network()
    direction(network, schedule, STEPS - 1, start, condition(1, 2, 3), Guidance(1))
    assert network.calls == [3]
    assert network.timesteps == [100]
    assert Guidance(1).rows == 1
    assert Guidance(7.5).rows == 2


def test_one_null_serves_both_branches(schedule: Schedule) -> None:
    guidance = Guidance(2, (condition(1, 2),))
    assert guidance.null(4, 4).embeddings[:, 0, 0].tolist() == [1, 2, 1, 2]
    per_step = Guidance(2, tuple(condition(float(n)) for n in range(STEPS)))
    assert per_step.null(4, 2).embeddings[:, 0, 0].tolist() == [4, 4]


def test_reverse_undoes_the_inversion_step(schedule: Schedule, start: Tensor) -> None:
    d = torch.ones_like(start)
    for step in range(STEPS):
        index = STEPS - 1 - step
        forward = float(schedule.phi[index]) * start + float(schedule.psi[index]) * d
        assert torch.allclose(reverse(schedule, step, forward, d), start, atol=1e-5)


def test_npi_samples_the_source_without_guidance(schedule: Schedule, start: Tensor) -> None:
    text, network = condition(1, 2, 3), Network()
    expected = path(network, schedule, text, start)[:, 0]
    guided = prepare("npi", 7.5, network, schedule, text, condition(0, 0, 0), None)
    assert torch.allclose(retraced(network, schedule, text, guided.guidance, start), expected, atol=1e-5)
    plain = prepare("none", 7.5, network, schedule, text, condition(0, 0, 0), None)
    assert (retraced(network, schedule, text, plain.guidance, start) - expected).abs().min() > 0.1
    assert guided.nfe.tolist() == plain.nfe.tolist() == [0, 0, 0]


def test_direct_inversion_adds_the_offset_to_the_source_alone(schedule: Schedule, start: Tensor) -> None:
    """After each step the source is z' + (z* − z'), for nothing; the target keeps the step it took."""
    text, network = condition(1, 2, 3), Network()
    trajectory = path(network, schedule, text, start)
    found = prepare("direct-inversion", 7.5, network, schedule, text, condition(0, 0, 0), trajectory)
    for step in range(STEPS):
        wandered = trajectory[:, -2 - step] + 0.5
        offset = trajectory[:, -2 - step] - wandered
        assert torch.allclose(found.guidance.correct(step, wandered), wandered + offset)
    assert torch.equal(retraced(network, schedule, text, found.guidance, start), trajectory[:, 0])
    assert found.nfe.tolist() == [0, 0, 0]


# Null-text optimisation


def test_nti_retraces_the_inverted_path(schedule: Schedule, start: Tensor) -> None:
    text, network = condition(0.06, 0.04, 0.02), Network()
    trajectory = path(network, schedule, text, start)
    found = prepare("nti", 7.5, network, schedule, text, condition(0, 0, 0), trajectory)
    plain = prepare("none", 7.5, network, schedule, text, condition(0, 0, 0), None)
    fitted, missed = (
        (retraced(network, schedule, text, p.guidance, start) - trajectory[:, 0]).square().mean()
        for p in (found, plain)
    )
    assert fitted < 1e-3 * missed
    assert found.loss is not None
    assert (found.loss[:, -1] < 1e-5 + 2e-5 * (STEPS - 1)).all()


def test_nti_stops_for_each_image_by_itself(schedule: Schedule, start: Tensor) -> None:
    """The first image's null text is right from the start, the second is near, the third far off."""
    text, network = condition(0.0, 0.03, 3.0), Network()
    trajectory = path(network, schedule, text, start)
    network.calls.clear()
    found = null_text(network, schedule, text, condition(0, 0, 0), trajectory, 7.5)
    assert found.nfe[0] == 2 * STEPS, "one conditional and one unconditional row a step"
    assert found.nfe[0] < found.nfe[1] < found.nfe[2] <= STEPS * (1 + 11)
    assert all((n.embeddings[0] == 0).all() for n in found.nulls), "an image that has stopped is not moved"
    assert set(network.calls) == {3}, "the batch keeps its shape"
    assert (found.loss[:2] < 1e-5 + 2e-5 * torch.arange(STEPS)).all()
    alone = null_text(Network(), schedule, condition(0.03), condition(0), trajectory[1:2], 7.5)
    assert alone.nfe[0] == found.nfe[1]
    assert all(torch.allclose(a.embeddings[0], b.embeddings[1]) for a, b in zip(alone.nulls, found.nulls, strict=True))


def test_nti_asks_less_of_later_steps(schedule: Schedule, start: Tensor) -> None:
    """A mean square of 5e-5 passes at the last of six steps, 1e-5 + 2e-5 · 5, and does not at the first."""
    text, missed = condition(0.1, 0.1, 0.1), 5e-5**0.5
    exact = path(Network(), schedule, text, start)
    late, early = exact.clone(), exact.clone()
    late[:, 0] += missed
    early[:, -2] += missed
    spent = [null_text(Network(), schedule, text, text, pivots, 7.5).nfe.tolist() for pivots in (late, early)]
    assert spent[0] == [2 * STEPS] * 3
    assert min(spent[1]) > 2 * STEPS


def test_nti_takes_the_steps_of_adam(schedule: Schedule, start: Tensor) -> None:
    """Adam's first update moves every coordinate by the learning rate, 1e-2 (1 − i/100), against the gradient."""
    text = condition(0.3, 0.3, 0.3)
    trajectory = path(Network(), schedule, text, start)
    found = null_text(Network(), schedule, text, condition(0, 0, 0), trajectory, 7.5, inner_steps=1)
    assert torch.allclose(found.nulls[0].embeddings, torch.full((3, 3, 4), 1e-2), atol=1e-5)
    assert torch.allclose(found.nulls[1].embeddings - found.nulls[0].embeddings, torch.tensor(0.99e-2), atol=1e-5)


def test_nti_works_with_a_half_precision_network(schedule: Schedule) -> None:
    """A mean over a Stable Diffusion latent has gradients that float16 rounds to zero; they must arrive still."""

    class HalfNetwork(Network):
        def __call__(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
            shift = 1000 * condition.embeddings.half().mean((1, 2)).view(-1, 1, 1, 1)
            return torch.tanh(z) + 1e-3 * (shift * torch.ones_like(z, dtype=torch.float16)).float()

    text, start = condition(0.05), torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    trajectory = path(Network(), schedule, text, start)
    found = null_text(HalfNetwork(), schedule, text, condition(0), trajectory, 7.5)
    assert float(found.loss[0, -1]) < 1e-5 + 2e-5 * (STEPS - 1)
    assert torch.allclose(found.nulls[-1].embeddings, text.embeddings, atol=0.01)


def test_a_broken_image_stops_and_harms_nobody(schedule: Schedule, start: Tensor) -> None:
    text = condition(0.1, 0.03, 0.2)
    trajectory = path(Network(), schedule, text, start)
    good = null_text(Network(), schedule, text, condition(0, 0, 0), trajectory, 7.5)
    poisoned = trajectory.clone()
    poisoned[1] = torch.nan
    found = null_text(Network(), schedule, text, condition(0, 0, 0), poisoned, 7.5)
    assert found.nfe[1] == 2 * STEPS
    assert found.loss[1].isnan().all()
    for a, b in zip(found.nulls, good.nulls, strict=True):
        assert torch.equal(a.embeddings[[0, 2]], b.embeddings[[0, 2]])


# Refusals


def test_what_does_not_fit_is_refused(schedule: Schedule, start: Tensor) -> None:
    text, network = condition(1, 2, 3), Network()
    trajectory = path(network, schedule, text, start)
    with pytest.raises(ValueError, match="not one of none, nti, npi, direct-inversion"):
        prepare("magic", 7.5, network, schedule, text, text, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs 7 latents for each of 3 images; keep the trajectory"):
        prepare("nti", 7.5, network, schedule, text, text, None)
    with pytest.raises(ValueError, match="needs 7 latents"):
        prepare("direct-inversion", 7.5, network, schedule, text, text, trajectory[:, :-1])
    with pytest.raises(ValueError, match="guidance_scale 1 does not use"):
        prepare("nti", 1, network, schedule, text, text, trajectory)
