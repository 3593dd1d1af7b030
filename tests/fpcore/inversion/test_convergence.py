"""Convergence measurements against closed forms."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from fpcore.inversion import convergence as analysis
from fpcore.inversion.criteria import Status
from fpcore.inversion.invert import Inversion, invert
from fpcore.inversion.methods import method
from fpcore.inversion.noise_schedules import schedule_at_levels_of
from fpcore.inversion.schedule import Schedule
from tests.fpcore.closed_form import gaussian, mixture, sd_schedule

pytestmark = pytest.mark.long

STEPS = 20


def walked(images: int = 3, tolerance: float = 1e-9) -> tuple[Schedule, "analysis.Predict", Tensor, Inversion]:
    schedule = sd_schedule(STEPS)
    model = mixture(schedule)
    z0 = model.draw(images, torch.Generator().manual_seed(2))
    precise = method("certified", tolerance=tolerance, max_iterations=200)
    return (
        schedule,
        model.predict,
        z0,
        invert(model.predict, schedule, z0, precise, batch_size=images, keep_trajectory=True),
    )


def test_contraction_of_a_gaussian_is_known() -> None:
    """One Gaussian of variance λ: f shrinks every direction by r (1 − ᾱλ/(ᾱλ + 1 − ᾱ)), below r_t."""
    schedule = sd_schedule(STEPS)
    model = gaussian(schedule)
    z0 = model.draw(2, torch.Generator().manual_seed(0))
    run = invert(model.predict, schedule, z0, method("certified"), batch_size=2, keep_trajectory=True)
    assert run.trajectory is not None
    found = analysis.contraction(model.predict, schedule, run.trajectory)
    a2, s2 = schedule.alpha.numpy(), 1 - schedule.alpha.numpy()
    expected = schedule.rate.numpy() * (1 - a2 * 0.2 / (a2 * 0.2 + s2))
    np.testing.assert_allclose(found["ratio"], expected[found["step"]], rtol=1e-6)
    assert len(found["ratio"]) == 2 * STEPS * 3
    assert (found["rate"] >= found["ratio"]).all()


def test_least_contracted_direction_is_found() -> None:
    schedule, predict, _, run = walked()
    assert run.trajectory is not None
    found = analysis.contraction(predict, schedule, run.trajectory, steps=range(0, STEPS, 4))
    near = found["ratio"][(found["direction"] == "random") & (found["distance"] < 0.1)]
    least = found["ratio"][found["direction"] == "least contracted"]
    assert (least >= near - 1e-3).all()
    assert (
        least <= found["rate"][found["direction"] == "least contracted"] + 1e-6
    ).all()  # an ideal denoiser's promise


def test_paths_meet_in_the_fixed_point() -> None:
    schedule, predict, _, run = walked()
    assert run.trajectory is not None
    found = analysis.multi_start(predict, schedule, run.trajectory[0, 4], 4, paths=5, iterations=40)
    assert len(found["x"]) == 5 * 41
    starts, ends = found["iteration"] == 0, found["iteration"] == 40
    assert (found["distance"][ends] < 1e-9).all()
    assert (found["distance"][starts][1:] > 0.5).all()
    assert np.hypot(found["x"], found["y"]).max() <= found["distance"].max() + 1e-12  # a projection shortens
    assert np.abs(found["x"]).max() > 0.2


def test_loss_curves_are_the_engines_records() -> None:
    schedule, predict, z0, _ = walked()
    found = analysis.loss_curves(predict, schedule, z0, iterations=4)
    assert {"image", "step", "timestep", "iteration", "intra", "inter", "bound", "rate"} <= set(found)
    assert len(found["intra"]) == 3 * STEPS * 4
    assert np.isfinite(found["inter"]).all()
    assert (found["timestep"] == schedule.timesteps.numpy()[found["step"]]).all()
    first, last = found["iteration"] == 1, found["iteration"] == 4
    assert (found["inter"][last] < found["inter"][first]).all()


def test_errors_along_a_path_are_true() -> None:
    schedule, predict, _, run = walked()
    assert run.trajectory is not None
    found = analysis.path_errors(predict, schedule, run.trajectory, steps=[1, 10], iterations=5, precision=1e-12)
    assert len(found["error"]) == 3 * 2 * 5
    assert found["floor"].max() < 1e-9
    held = np.isfinite(found["bound"]) & (found["error"] > 1e-8)
    assert held.sum() > 10
    assert (found["error"][held] <= found["bound"][held] * (1 + 1e-6)).all()
    falling = found["error"].reshape(-1, 5)
    assert (np.diff(falling, axis=1) < 1e-12).all()


def test_errors_at_the_stop_are_true_and_below_the_bound() -> None:
    schedule, predict, z0, _ = walked()
    every_step = method("certified", tolerance=1e-3, norm="state", speculative_below=0.0)
    run = invert(predict, schedule, z0, every_step, batch_size=3, keep_trajectory=True)
    found = analysis.stop_errors(predict, schedule, run, precision=1e-12)
    assert len(found["error"]) == 3 * STEPS
    assert found["iteration"].sum() == sum(run.nfe)
    assert (found["error"] <= found["bound"] + 1e-9).all()
    with pytest.raises(ValueError, match="keep_trajectory"):
        analysis.stop_errors(predict, schedule, invert(predict, schedule, z0, method("ddim")))


def test_final_residuals_are_measured_anew() -> None:
    schedule, predict, z0, exact = walked()
    plain = invert(predict, schedule, z0, method("ddim"), batch_size=3, keep_trajectory=True)
    assert exact.trajectory is not None
    assert plain.trajectory is not None
    assert analysis.final_residuals(predict, schedule, exact.trajectory).max() < 1e-8
    assert analysis.final_residuals(predict, schedule, plain.trajectory).max() > 1e-3


def test_outcomes_count_what_happened() -> None:
    schedule, predict, z0, _ = walked()
    good = analysis.outcomes(predict, schedule, z0, method("certified", tolerance=1e-6, certify_below=1.0))
    assert list(good["status"]) == ["converged"] * 3
    assert (good["converged"] == STEPS).all()
    assert (good["round_trip"] < 1e-3).all()
    withheld = analysis.outcomes(predict, schedule, z0, method("certified", tolerance=1e-6, certify_below=0.0))
    assert (withheld["uncertified"] == STEPS).all()
    hasty = analysis.outcomes(predict, schedule, z0, method("intra-path", tolerance=1e-9, max_iterations=2))
    assert (hasty["max_iterations"] > 0).all()
    assert (hasty["hardest"] == 2).all()


def test_divergence_is_counted() -> None:
    schedule = sd_schedule(5)

    def explosive(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        return -40 * (z - 1)

    start = torch.zeros((1, 1, 2, 2), dtype=torch.float64)
    found = analysis.outcomes(explosive, schedule, start, method("intra-path", tolerance=1e-9))
    assert found["diverging"] + found["oscillating"] > 0
    assert found["status"][0] in (Status.DIVERGING.label, Status.OSCILLATING.label)


def test_guidance_extrapolates_between_two_predictions() -> None:
    z, t = torch.zeros((2, 1, 2, 2)), torch.tensor([1, 1])

    def one(z: Tensor, t: Tensor, i: Tensor) -> Tensor:
        return z + 1

    def three(z: Tensor, t: Tensor, i: Tensor) -> Tensor:
        return z + 3

    assert analysis.with_guidance(three, one, 1) is three
    torch.testing.assert_close(analysis.with_guidance(three, one, 7.5)(z, t, t), z + 16)


def trained(prediction: str = "v_prediction") -> DDIMScheduler:
    return DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction, clip_sample=False)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "log-sigma"])
@pytest.mark.parametrize("levels", ["linear", "scaled_linear", "cosine", "trained"])
def test_other_levels_use_the_nearest_trained_timestep(levels: str, spacing: str) -> None:
    network = trained()
    schedule = schedule_at_levels_of(network, levels, 10, spacing)  # type: ignore[arg-type]
    assert schedule.prediction_type == "v_prediction"
    known, wanted = (1 / network.alphas_cumprod.double() - 1).log(), (1 / schedule.alpha - 1).log()
    apart = (known[schedule.timesteps] - wanted).abs()
    for neighbour in (-1, 1):
        beside = (schedule.timesteps + neighbour).clamp(0, 999)
        assert (apart <= (known[beside] - wanted).abs() + 1e-12).all()
    if levels == "trained":
        assert apart.max() < 1e-4


@pytest.mark.parametrize("spacing", ["leading", "trailing", "log-sigma"])
def test_own_levels_are_the_schedule_itself(spacing: str) -> None:
    network = DDIMScheduler(beta_schedule="linear", timestep_spacing=spacing, clip_sample=False, set_alpha_to_one=False)
    own, same = Schedule.from_scheduler(network, 10), schedule_at_levels_of(network, "trained", 10)
    assert torch.equal(own.timesteps, same.timesteps)
    torch.testing.assert_close(own.alpha, same.alpha, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(own.alpha_prev, same.alpha_prev, rtol=1e-4, atol=1e-6)


def test_unknown_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="scaled_linear"):
        schedule_at_levels_of(trained(), "quadratic", 10)  # type: ignore[arg-type]
