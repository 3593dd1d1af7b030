"""The bound on z_T as a whole, against exact inversion in double precision."""

import numpy as np
import pytest
import torch

from fpcore.inversion.criteria import Status, certified_bound, rms
from fpcore.inversion.invert import invert
from fpcore.inversion.methods import CERTIFY_BELOW, method
from fpcore.inversion.path_bound import path_bound
from fpcore.inversion.records import StepRecords
from fpcore.inversion.schedule import Schedule
from tests.fpcore.closed_form import mixture, sd_schedule

EXACT = method("certified", tolerance=1e-12, norm="state", speculative_below=0.0, anderson=3, max_iterations=400)
IDEAL = 1.0  # the premise of the bound holds for these denoisers at any rate below 1


@pytest.mark.long
@pytest.mark.parametrize("speculative", [0.0, 0.5])
@pytest.mark.parametrize("norm", ["state", "picture"])
def test_z_t_lies_within_the_bound_of_the_exact_one(norm: str, speculative: float) -> None:
    ratios = []
    for seed in range(1):
        schedule = sd_schedule(12)
        model = mixture(schedule, seed=seed)
        z0 = model.draw(6, torch.Generator().manual_seed(seed))
        exact = invert(model.predict, schedule, z0, EXACT, batch_size=6).latents
        chosen = method("certified", norm=norm, speculative_below=speculative, certify_below=IDEAL)  # type: ignore[arg-type]
        found = invert(model.predict, schedule, z0, chosen, batch_size=6)
        assert found.nfe != [len(schedule)] * 6
        ratios.append(rms(found.latents - exact).numpy() / np.array(found.path_bound))
    assert np.isfinite(ratios).all()
    assert np.max(ratios) < 1
    assert np.median(ratios) > 0.01  # and says something


def records(steps: list[int], bound: list[float], rate: list[float], status: Status = Status.CONVERGED) -> StepRecords:
    n = len(steps)
    zeros = np.zeros(n, np.int64)
    intra = np.array(bound) / 10
    return StepRecords(
        zeros, np.array(steps), zeros + 1, zeros + status, intra, zeros * np.nan, np.array(bound), np.array(rate)
    )


def test_an_error_grows_as_the_noise_does() -> None:
    """E_T = Σ (s_T/s_t) b_t for the ideal rates, by hand."""
    schedule = sd_schedule(3)
    real = schedule.take(schedule.real)
    bounds = [1e-3, 2e-3, 5e-4][: len(real)]
    expected = sum(float(real.noise[-1] / s) * b for s, b in zip(real.noise, bounds, strict=True))
    plain = method("certified", norm="state")
    at = schedule.real.tolist()
    found = path_bound(records(at, bounds, real.rate.tolist()), schedule, plain, 1)
    assert found[0] == pytest.approx(expected, rel=1e-9)
    in_picture = path_bound(records(at, bounds, real.rate.tolist()), schedule, method("certified"), 1)
    expected = sum(float(real.noise[-1] / s * a) * b for s, a, b in zip(real.noise, real.signal, bounds, strict=True))
    assert in_picture[0] == pytest.approx(expected, rel=1e-9)


def test_what_has_no_bound_is_not_given_one() -> None:
    schedule, plain = sd_schedule(3), method("certified", norm="state")
    rates = schedule.take(schedule.real).rate.tolist()
    at = schedule.real.tolist()
    uncertain = path_bound(records(at, [1e-3] * len(at), rates, Status.STAGNATED), schedule, plain, 1)
    assert np.isinf(uncertain).all()
    assert np.isinf(path_bound(records(at, [1e-3] * len(at), [1.0] * len(at)), schedule, plain, 1)).all()
    assert np.isinf(path_bound(records(at[:-1], [1e-3] * (len(at) - 1), rates[:-1]), schedule, plain, 1)).all()
    for name in ("renoise", "easyinv"):
        assert np.isnan(path_bound(records(at, [1e-3] * len(at), rates), schedule, method(name), 1)).all()


def test_a_step_from_zero_noise_bounds_nothing_by_itself() -> None:
    """set_alpha_to_one: r = 1 is no rate; the estimate decides, and the image converges."""
    half = torch.tensor([0.9, 0.5], dtype=torch.float64)
    schedule = Schedule.from_alphas(torch.tensor([10, 20]), torch.tensor([1.0, 0.9], dtype=torch.float64), half)
    assert schedule.rate.isnan().tolist() == [True, False]
    model = mixture(schedule)
    z0 = model.draw(4, torch.Generator().manual_seed(0))
    found = invert(model.predict, schedule, z0, method("certified", certify_below=IDEAL))
    assert set(found.status) == {Status.CONVERGED}
    exact = invert(model.predict, schedule, z0, EXACT).latents
    assert (rms(found.latents - exact).numpy() < found.path_bound).all()


def test_a_certificate_is_withheld_where_f_contracts_too_slowly() -> None:
    """The same path, and a step at rate .9: the state is as good, but nothing is promised."""
    half = torch.tensor([0.5, 0.4], dtype=torch.float64)
    schedule = Schedule.from_alphas(torch.tensor([10, 20]), torch.tensor([0.995, 0.5], dtype=torch.float64), half)
    assert float(schedule.rate[0]) > CERTIFY_BELOW > float(schedule.rate[1])
    model = mixture(schedule)
    z0 = model.draw(3, torch.Generator().manual_seed(0))
    withheld = invert(model.predict, schedule, z0, method("certified"))
    given = invert(model.predict, schedule, z0, method("certified", certify_below=IDEAL))
    assert torch.equal(withheld.latents, given.latents)
    assert set(withheld.status) == {Status.UNCERTIFIED}
    assert set(given.status) == {Status.CONVERGED}
    assert np.isinf(withheld.records.bound[withheld.records.step == 0]).all()
    assert np.isfinite(withheld.records.bound[withheld.records.step == 1]).all()
    assert np.isinf(withheld.path_bound).all()
    assert np.isfinite(given.path_bound).all()


@pytest.mark.parametrize("name", ["fixed-point", "intra-path", "inter-path", "aidi", "renoise"])
def test_methods_that_promise_nothing_are_not_called_uncertified(name: str) -> None:
    """However slowly f contracts: a count that is done is done."""
    half = torch.tensor([0.02, 0.01], dtype=torch.float64)
    schedule = Schedule.from_alphas(torch.tensor([10, 20]), torch.tensor([0.9999, 0.02], dtype=torch.float64), half)
    model = mixture(schedule)
    z0 = 5 * model.draw(3, torch.Generator().manual_seed(0))
    found = invert(model.predict, schedule, z0, method(name, tolerance=1e-4, iterations=3))
    assert Status.UNCERTIFIED not in {Status(code) for code in found.records.status}


def test_an_unevaluated_step_is_reckoned_with_what_the_check_after_it_missed() -> None:
    """By hand: the middle one of three steps has no record."""
    schedule = sd_schedule(3)
    real = schedule.take(schedule.real)
    first, _, last = schedule.real.tolist()
    phi, psi, rate = real.phi.tolist(), real.psi.tolist(), real.rate.tolist()
    error = 1e-3
    error = (phi[1] * error + psi[1] / psi[2] * 5e-5) / (1 - rate[1])
    error = phi[2] * error / (1 - rate[2]) + 5e-4
    kept = records([first, last], [1e-3, 5e-4], [rate[0], rate[2]])
    assert path_bound(kept, schedule, method("certified", norm="state"), 1)[0] == pytest.approx(error, rel=1e-9)


def test_a_rate_of_one_or_more_bounds_nothing() -> None:
    """r/(1 − r) of the residual below 1, where it is positive; from 1 on it would promise less than nothing."""
    found = certified_bound(torch.full((4,), 2.0), torch.tensor([0.5, 0.8, 1.0, 1.5]))
    torch.testing.assert_close(found, torch.tensor([2.0, 8.0, torch.inf, torch.inf]))
