"""The schedule against diffusers, step by step."""

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler

from fpcore.builtin.train import build_scheduler
from fpcore.inversion.schedule import Schedule

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
COUNTS = (1, 2, 10, 20, 50, pytest.param(999, marks=pytest.mark.chaos))
SPACINGS = ("leading", "trailing", "linspace")


def scheduler(spacing: str, prediction: str = "epsilon", **more: object) -> DDIMScheduler:
    return DDIMScheduler(**SD, timestep_spacing=spacing, prediction_type=prediction, set_alpha_to_one=False, **more)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_sampling_step_is_diffusers_step_at_every_timestep(spacing: str, count: int, prediction: str) -> None:
    ddim = scheduler(spacing, prediction)
    schedule = Schedule.from_scheduler(ddim, count)
    generator = torch.Generator().manual_seed(count)
    z, output = torch.randn((2, 1, 4, 2, 2), generator=generator, dtype=torch.float64)
    assert ddim.timesteps.tolist() == schedule.timesteps.flip(0).tolist()
    for i in reversed(range(count)):
        theirs = ddim.step(output, int(schedule.timesteps[i]), z).prev_sample
        d = schedule.direction(output, z, torch.tensor([i]))
        ours = (z - float(schedule.psi[i]) * d) / float(schedule.phi[i])
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)  # diffusers keeps its alphas in fp32


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("count", COUNTS)
def test_one_iteration_is_the_inverse_schedulers_update(spacing: str, count: int) -> None:
    inverse = DDIMInverseScheduler(**SD, timestep_spacing=spacing, set_alpha_to_one=False)
    inverse.set_timesteps(count)
    schedule = Schedule.from_scheduler(scheduler(spacing), count)
    generator = torch.Generator().manual_seed(count)
    z, eps = torch.randn((2, 1, 4, 2, 2), generator=generator, dtype=torch.float64)
    assert inverse.timesteps.tolist() == schedule.timesteps.tolist()
    for i, t in enumerate(inverse.timesteps):
        theirs = inverse.step(eps, int(t), z).prev_sample
        ours = float(schedule.phi[i]) * z + float(schedule.psi[i]) * eps
        # the inverse scheduler moves the model's timestep by one stride at its start; its update is at t - stride -> t
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("count", [1, 2, 10, 50, 999, 1000])
def test_inversion_walks_the_reversed_list_of_sampling(spacing: str, count: int) -> None:
    ddim = scheduler(spacing, steps_offset=0)
    schedule = Schedule.from_scheduler(ddim, count)
    ddim.set_timesteps(count)
    assert schedule.timesteps.tolist() == list(reversed(ddim.timesteps.tolist()))


@pytest.mark.parametrize("count", [1, 2, 6, 10, 25, 50])
def test_log_sigma_contracts_alike_on_every_step(count: int) -> None:
    rate = Schedule.from_scheduler(build_scheduler(), count).rate
    assert float(rate.max() - rate.min()) < (0.03 if count <= 10 else 0.3)
    # the noise level grows from that of timestep 0 to that of 999, e^9.9 times, by the same factor each step
    alphas = build_scheduler().alphas_cumprod.double()
    levels = (1 / alphas[[0, 999]] - 1).sqrt()
    even = 1 - (levels[0] / levels[1]) ** (1 / count)
    assert float((rate[1:-1] - even).abs().median() if count > 2 else rate[-1] - even) < 0.01
    assert float((1 - rate).log().sum()) == pytest.approx(float((levels[0] / levels[1]).log()), rel=1e-6)


def test_ten_steps_of_the_built_in_models() -> None:
    schedule = Schedule.from_scheduler(build_scheduler(), 10)
    assert schedule.timesteps.tolist() == [5, 22, 72, 201, 467, 754, 907, 968, 991, 999]
    assert float(schedule.rate.max()) < 0.65
    uniform = Schedule.from_scheduler(build_scheduler(), 10, "trailing")
    assert float(uniform.rate.max()) > 0.93


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("count", [1, 2, 10, 20, 50, 999, 1000])
def test_log_sigma_steps_follow_one_another_without_duplicates(count: int, prediction: str) -> None:
    schedule = Schedule.from_scheduler(scheduler("leading", prediction), count, "log-sigma")
    assert len(schedule) == count
    assert (schedule.timesteps.diff() > 0).all()
    assert int(schedule.timesteps[-1]) == 999
    assert torch.equal(schedule.alpha_prev[1:], schedule.alpha[:-1])
    assert (schedule.rate >= 0).all()


def test_a_spacing_named_goes_before_the_schedulers_own() -> None:
    named, own = (Schedule.from_scheduler(scheduler(name), 10, "trailing") for name in ("leading", "trailing"))
    assert torch.equal(named.timesteps, own.timesteps)
    with pytest.raises(ValueError, match=r"unknown spacing 'karras'.*log-sigma"):
        Schedule.from_scheduler(scheduler("leading"), 10, "karras")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rectified flow"):
        Schedule.from_scheduler(FlowMatchEulerDiscreteScheduler(), 10, "log-sigma")


def test_rates_of_the_published_schedule() -> None:
    schedule = Schedule.from_scheduler(scheduler("leading", steps_offset=1), 50)
    assert [round(float(r), 2) for r in schedule.rate[1:6]] == [0.71, 0.3, 0.2, 0.16, 0.13]
    assert float(schedule.rate[10:].max()) < 0.12


def test_flow_step_is_diffusers_euler_step() -> None:
    euler = FlowMatchEulerDiscreteScheduler()
    schedule = Schedule.from_scheduler(euler, 10)
    z, velocity = torch.randn((2, 1, 4, 2, 2), generator=torch.Generator().manual_seed(0))
    for i in reversed(range(len(schedule))):
        theirs = euler.step(velocity, euler.timesteps[len(schedule) - 1 - i], z, return_dict=False)[0]
        ours = (z - float(schedule.psi[i]) * velocity) / float(schedule.phi[i])
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_zero_terminal_snr_is_refused() -> None:
    with pytest.raises(ValueError, match="zero terminal SNR"):
        Schedule.from_scheduler(scheduler("trailing", "v_prediction", rescale_betas_zero_snr=True), 10)


def test_uniform_in_log_sigma_leaves_out_the_level_without_a_logarithm() -> None:
    steps = Schedule.from_scheduler(scheduler("leading", "v_prediction", rescale_betas_zero_snr=True), 10, "log-sigma")
    assert bool((steps.signal > 0).all())
    assert bool(steps.level.isfinite().all())


@pytest.mark.parametrize("count", [0, 1001])
def test_step_counts_out_of_range_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="num_inference_steps"):
        Schedule.from_scheduler(scheduler("leading"), count)


def test_steps_beyond_the_trained_ones_are_refused() -> None:
    """With an offset of 1 a thousand leading steps end at timestep 1000."""
    with pytest.raises(ValueError, match=r"timestep 1000.*use at most 999"):
        Schedule.from_scheduler(scheduler("leading", steps_offset=1), 1000)
    assert len(Schedule.from_scheduler(scheduler("leading", steps_offset=1), 999)) == 999


def test_no_rate_is_known_of_a_step_from_zero_noise() -> None:
    ones = torch.ones(2, dtype=torch.float64)
    rate = Schedule.from_alphas(
        torch.tensor([1, 2]), ones * torch.tensor([1, 0.9]), ones * torch.tensor([0.9, 0.5])
    ).rate
    assert rate[0].isnan()
    assert float(rate[1]) == pytest.approx(1 - (0.1 / 0.9) ** 0.5)


def test_directions_are_extrapolated_in_the_logarithm_of_the_noise_level() -> None:
    schedule = Schedule.from_scheduler(scheduler("leading", steps_offset=1), 10)
    torch.testing.assert_close(schedule.level, ((1 - schedule.alpha) / schedule.alpha).sqrt().log())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_prediction_of_x0_is_diffusers_one(prediction: str) -> None:
    ddim = scheduler("leading", prediction, steps_offset=1)
    schedule = Schedule.from_scheduler(ddim, 10)
    z, output = torch.randn((2, 1, 4, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for i in range(10):
        theirs = ddim.step(output, int(schedule.timesteps[i]), z).pred_original_sample
        step = torch.tensor([i])
        ours = schedule.denoised(schedule.direction(output, z, step), z, step)
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("one", [False, True])
def test_levels_as_they_are_left(one: bool) -> None:
    """A network asked about what a step leaves; of a level without noise it says nothing, and is asked about the other."""
    ddim = DDIMScheduler(clip_sample=False, set_alpha_to_one=one, timestep_spacing="trailing")
    schedule = Schedule.from_scheduler(ddim, 5)
    left = schedule.as_left()
    first = schedule.timesteps[0] if one else 0
    assert left.timesteps.tolist() == [first, *schedule.timesteps[:-1].tolist()]
    assert left.signal.tolist()[1:] == schedule.signal_prev.tolist()[1:] == schedule.signal.tolist()[:-1]
    assert left.noise.tolist()[1:] == schedule.noise_prev.tolist()[1:]
    assert (left.signal[0], left.noise[0]) == (
        (schedule.signal[0], schedule.noise[0]) if one else (schedule.signal_prev[0], schedule.noise_prev[0])
    )
