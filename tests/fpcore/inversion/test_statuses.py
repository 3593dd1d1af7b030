"""Each status on a made-up map that earns it, and what several paths are good for."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fpcore.inversion.criteria import Status
from fpcore.inversion.invert import Inversion, Predict, invert
from fpcore.inversion.methods import method
from fpcore.inversion.schedule import Schedule


def one_flow_step() -> Schedule:
    """A single step of rectified flow, whose fixed points need not be unique: f(z) = base + .4 d(z)."""
    one = torch.ones(1, dtype=torch.float64)
    return Schedule(one * 500, 1 - 0.1 * one, 0.1 * one, 1 - 0.5 * one, 0.5 * one, "flow")


def solve(g: Callable[[Tensor], Tensor], start: float, name: str = "intra-path", **options: object) -> Inversion:
    """The step whose f is ``g``, from z_{t-1} = ``start``."""
    base = torch.full((1, 1, 4, 4), start, dtype=torch.float64)

    def predict(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        return (g(z) - base) / 0.4

    return invert(predict, one_flow_step(), base, method(name, **options), seeds=[3])  # type: ignore[arg-type]


def cycle(z: Tensor) -> Tensor:
    """0 → 1 → 2.5 → 1.5 → 0: steps of 1 and 1.5 in turn."""
    places = torch.tensor([0.5, 1.25, 2.0], dtype=z.dtype)
    return torch.tensor([1.0, 2.5, 0.0, 1.5], dtype=z.dtype)[torch.bucketize(z, places)]


@pytest.mark.parametrize(
    ("g", "start", "expected"),
    [
        (lambda z: 0.5 * z, 1.0, Status.CONVERGED),
        (lambda z: 0.999 * z, 1.0, Status.STAGNATED),  # falls by less than 2 % an evaluation
        (lambda z: z + 1, 0.0, Status.STAGNATED),
        (cycle, 0.0, Status.OSCILLATING),
        (lambda z: -3 * z, 1.0, Status.DIVERGING),
        (lambda z: z * torch.nan, 1.0, Status.NONFINITE),
    ],
)
def test_each_status_is_earned(g: Callable[[Tensor], Tensor], start: float, expected: Status) -> None:
    run = solve(g, start, tolerance=1e-6)
    assert run.status == [expected]
    assert run.latents.isfinite().all()


@pytest.mark.parametrize("name", ["intra-path", "fixed-point"])
def test_a_tenfold_residual_is_divergence_at_once(name: str) -> None:
    """Also under a method that asks for no residual, and before patience has run out."""
    run = solve(lambda z: -30 * z, 1.0, name, tolerance=1e-6, patience=10)
    assert run.status == [Status.DIVERGING]
    assert run.nfe == [3]


def test_too_few_iterations_are_called_so() -> None:
    assert solve(lambda z: 0.5 * z, 1.0, max_iterations=3, tolerance=1e-6).status == [Status.MAX_ITERATIONS]


def two_roots(z: Tensor) -> Tensor:
    """Attracts to about +1 and −1."""
    return torch.tanh(20 * z)


def test_paths_that_rest_at_different_fixed_points_are_reported() -> None:
    """One path converges and cannot know; a second one, perturbed, finds another fixed point."""
    assert solve(two_roots, 0.2, tolerance=1e-4).status == [Status.CONVERGED]
    run = solve(two_roots, 0.2, "inter-path", tolerance=1e-4)
    assert run.status == [Status.AMBIGUOUS]
    torch.testing.assert_close(run.latents, torch.ones_like(run.latents), rtol=0, atol=1e-3)


def linear(spread: float) -> Predict:
    def predict(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        return (0.5 * z + spread * z.flatten(1).mean(1).view(-1, 1, 1, 1)) / 0.4

    return predict


def test_more_paths_and_their_mean() -> None:
    z0 = torch.ones((2, 1, 4, 4), dtype=torch.float64)
    ends = {}
    for combine in ("unperturbed", "mean"):
        chosen = method("inter-path", tolerance=1e-2, paths=4, combine=combine)
        run = invert(linear(0.05), one_flow_step(), z0, chosen, seeds=[1, 2])
        assert set(run.status) == {Status.CONVERGED}
        assert run.nfe[0] % 4 == 0
        ends[combine] = run.latents
    assert not torch.equal(ends["mean"], ends["unperturbed"])
    torch.testing.assert_close(ends["mean"], ends["unperturbed"], rtol=0, atol=1e-2)
