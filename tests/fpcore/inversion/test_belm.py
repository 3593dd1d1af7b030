"""The exact sampler: its inverse, its order, its limits."""

from itertools import pairwise

import pytest
import torch

from fpcore.inversion.belm import ExactLatents, invert_exactly, noise_status, sample_exactly
from fpcore.inversion.criteria import Status, rms
from fpcore.inversion.sample import sample
from tests.fpcore.closed_form import gaussian, mixture, sd_schedule
from tests.fpcore.inversion.test_invert import flow_schedule, relative


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("count", [3, 10, 50])
def test_inverse_of_forward_is_exact(count: int, prediction: str, spacing: str) -> None:
    schedule = sd_schedule(count, prediction, spacing)
    model = mixture(schedule)
    z0 = model.draw(5, torch.Generator().manual_seed(0))
    pair = invert_exactly(model.predict, schedule, z0, batch_size=2)
    assert relative(sample_exactly(model.predict, schedule, pair.last, pair.before, batch_size=2), z0) < 1e-6


def test_one_evaluation_a_step() -> None:
    schedule, rows = sd_schedule(20), []
    model = mixture(schedule)

    def counted(z: torch.Tensor, t: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        rows.append(len(z))
        return model.predict(z, t, image)

    z0 = model.draw(3, torch.Generator().manual_seed(0))
    pair = invert_exactly(counted, schedule, z0)
    assert sum(rows) == 3 * 20
    rows.clear()
    sample_exactly(counted, schedule, pair.last, pair.before)
    assert sum(rows) == 3 * 19


def test_second_order() -> None:
    """A Gaussian, whose ODE has a closed form: half the step leaves a quarter of the error, with DDIM half of it."""
    errors: dict[str, list[float]] = {"exact": [], "ddim": []}
    for count in (50, 100, 200):
        schedule = sd_schedule(count)
        model = gaussian(schedule)
        start = torch.randn((4, 4, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)

        def spread(a: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
            return (a**2 * 0.2 + s**2).sqrt()

        a, s, a0, s0 = schedule.signal[-1], schedule.noise[-1], schedule.signal_prev[0], schedule.noise_prev[0]
        truth = a0 * model.means + spread(a0, s0) / spread(a, s) * (start - a * model.means)
        # The pair's first member must be as good as the sampler: taken from the closed form too
        b, q = schedule.signal[-2], schedule.noise[-2]
        before = b * model.means + spread(b, q) / spread(a, s) * (start - a * model.means)
        errors["exact"].append(float(rms(sample_exactly(model.predict, schedule, start, before) - truth).mean()))
        errors["ddim"].append(float(rms(sample(model.predict, schedule, start) - truth).mean()))
    for worse, better in pairwise(errors["exact"]):
        assert worse / better > 3
    for worse, better in pairwise(errors["ddim"]):
        assert worse / better < 2.5


def test_sampling_from_plain_noise_needs_no_pair() -> None:
    schedule = sd_schedule(50)
    model = mixture(schedule)
    noise = torch.randn((3, 4, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = sample_exactly(model.predict, schedule, noise)
    assert relative(drawn, sample(model.predict, schedule, noise)) < 0.1


def test_rows_keep_their_image_index() -> None:
    schedule, seen = sd_schedule(3), []
    model = mixture(schedule)

    def noted(z: torch.Tensor, t: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        seen.append(image.tolist())
        return model.predict(z, t, image)

    invert_exactly(noted, schedule, model.draw(3, torch.Generator().manual_seed(0)), batch_size=2)
    assert seen == [[0, 1]] * 3 + [[2]] * 3


def test_refused_schedules() -> None:
    flow = flow_schedule(4)
    z0 = torch.zeros((1, 4, 4, 4), dtype=torch.float64)
    with pytest.raises(ValueError, match="flow"):
        invert_exactly(mixture(flow).predict, flow, z0)
    short = sd_schedule(1)
    with pytest.raises(ValueError, match="at least 2"):
        sample_exactly(mixture(short).predict, short, z0)


def test_a_pair_is_what_comes_back() -> None:
    schedule = sd_schedule(10)
    model = mixture(schedule)
    z0 = model.draw(2, torch.Generator().manual_seed(0))
    pair = invert_exactly(model.predict, schedule, z0)
    assert isinstance(pair, ExactLatents)
    assert pair.last.shape == pair.before.shape == z0.shape
    wrong = sample_exactly(model.predict, schedule, pair.last)  # without the pair, exactness is lost
    assert relative(wrong, z0) > 1e-4


def test_a_latent_that_is_no_noise_is_called_so() -> None:
    sizes = (0.4, 0.9, 1.1, 2.1, float("inf"))
    expected = [Status.NOT_NOISE, Status.COMPLETED, Status.COMPLETED, Status.NOT_NOISE, Status.NONFINITE]
    assert [noise_status(size) for size in sizes] == expected
