"""The engine against closed forms, and its promises about rows."""

from dataclasses import replace
from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fpcore.inversion.criteria import Status
from fpcore.inversion.invert import Cancelled, Inversion, invert
from fpcore.inversion.methods import MethodName, method
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from tests.fpcore.closed_form import gaussian, mixture, sd_schedule


def run(
    count: int = 20, images: int = 6, dtype: torch.dtype = torch.float64, name: str = "certified", **options: object
) -> tuple[Inversion, Tensor, Tensor]:
    schedule = sd_schedule(count)
    model = mixture(schedule, dtype)
    z0 = model.draw(images, torch.Generator().manual_seed(2)).to(dtype)
    inversion = invert(model.predict, schedule, z0, method(name, **options), batch_size=4)  # type: ignore[arg-type]
    return inversion, sample(model.predict, schedule, inversion.latents, batch_size=4), z0


def relative(x: Tensor, reference: Tensor) -> float:
    return float((x - reference).norm() / reference.norm())


SPACINGS, PREDICTIONS = ("leading", "trailing", "linspace", "log-sigma"), ("epsilon", "v_prediction", "sample")
FEW = list(product((1, 2), PREDICTIONS, SPACINGS))
MANY = [
    (10, "epsilon", "leading"),
    (10, "v_prediction", "trailing"),
    (10, "sample", "linspace"),
    (50, "sample", "log-sigma"),
]
REST = [case for case in product((10, 50, 999, 1000), PREDICTIONS, SPACINGS) if case not in MANY]  # at night: minutes


@pytest.mark.long
@pytest.mark.parametrize(
    ("count", "prediction", "spacing"), FEW + MANY + [pytest.param(*case, marks=pytest.mark.chaos) for case in REST]
)
def test_inverse_of_forward_is_exact(count: int, prediction: str, spacing: str) -> None:
    schedule = sd_schedule(count, prediction, spacing)
    model = gaussian(schedule)
    z0 = model.draw(2, torch.Generator().manual_seed(0))
    precise = method("certified", tolerance=1e-11, max_iterations=400, anderson=3)
    inversion = invert(model.predict, schedule, z0, precise, batch_size=2)
    assert relative(sample(model.predict, schedule, inversion.latents), z0) < 1e-6


def test_inverse_of_forward_in_single_precision() -> None:
    inversion, back, z0 = run(50, dtype=torch.float32, tolerance=1e-5)
    assert relative(back, z0) < 1e-4
    assert set(inversion.status) == {Status.CONVERGED}


def test_every_prediction_type_takes_the_same_path() -> None:
    latents = []
    for prediction in ("epsilon", "v_prediction", "sample"):
        schedule = sd_schedule(20, prediction)
        model = mixture(schedule)
        z0 = model.draw(3, torch.Generator().manual_seed(0))
        latents.append(invert(model.predict, schedule, z0, method("fixed-point", iterations=4)).latents)
    torch.testing.assert_close(latents[0], latents[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(latents[0], latents[2], rtol=1e-9, atol=1e-9)


def flow_schedule(count: int) -> Schedule:
    sigma = torch.linspace(0.02, 0.98, count + 1, dtype=torch.float64)
    before, after = sigma[:-1], sigma[1:]
    return Schedule(after * 1000, 1 - before, before, 1 - after, after, "flow")


def test_flow_uses_the_same_engine_and_is_exact_where_it_converges() -> None:
    schedule = flow_schedule(40)
    model = mixture(schedule)
    z0 = model.draw(4, torch.Generator().manual_seed(0))
    inversion = invert(model.predict, schedule, z0, method("certified", tolerance=1e-10, max_iterations=300))
    assert set(inversion.status) == {Status.CONVERGED}
    assert relative(sample(model.predict, schedule, inversion.latents), z0) < 1e-6
    first = inversion.records.iteration == 1
    assert np.isinf(inversion.records.bound[first]).all()  # no rate is known before two evaluations


def test_flow_step_without_a_unique_fixed_point_is_reported() -> None:
    one = torch.ones(1, dtype=torch.float64)
    schedule = Schedule(one * 900, 1 - 0.1 * one, 0.1 * one, 1 - 0.9 * one, 0.9 * one, "flow")
    inversion = invert(
        lambda z, t, i: -3 * z, schedule, torch.ones((1, 1, 2, 2), dtype=torch.float64), method("certified")
    )
    assert inversion.status[0] in (Status.DIVERGING, Status.OSCILLATING)
    assert inversion.latents.isfinite().all()
    assert not np.isfinite(inversion.records.bound).any()


@pytest.mark.long
def test_certified_bound_holds_on_ten_thousand_checks() -> None:
    """‖f(z) − z*‖ ≤ the recorded bound, z* found to 1e-13: Gaussian mixtures of several seeds, every step and iteration."""
    images, iterations = 32, 4
    checks = violations = 0
    tightness: list[float] = []
    for seed in range(2):
        schedule = sd_schedule(50)
        model = mixture(schedule, seed=seed)
        z0 = model.draw(images, torch.Generator().manual_seed(seed))
        chosen = method("fixed-point", iterations=iterations)
        run = invert(model.predict, schedule, z0, chosen, batch_size=images, keep_trajectory=True)
        assert run.trajectory is not None
        bounds = run.records.bound.reshape(images, len(schedule), iterations)
        residuals = run.records.intra.reshape(images, len(schedule), iterations)
        for i in range(len(schedule)):
            base = z = run.trajectory[:, i]
            one = Schedule(
                *(
                    x[i : i + 1]
                    for x in (
                        schedule.timesteps,
                        schedule.signal_prev,
                        schedule.noise_prev,
                        schedule.signal,
                        schedule.noise,
                    )
                )
            )
            precise = method("certified", tolerance=1e-13, max_iterations=500, anderson=3)
            root = invert(model.predict, one, base, precise, batch_size=images).latents
            for k in range(iterations):
                step = torch.full((images,), i)
                d = schedule.direction(model.predict(z, schedule.timesteps[step], step), z, step)
                z = float(schedule.phi[i]) * base + float(schedule.psi[i]) * d
                error = (z - root).flatten(1).square().mean(1).sqrt().numpy()
                bound, judged = bounds[:, i, k], (residuals[:, i, k] > 1e-9) & np.isfinite(bounds[:, i, k])
                checks += int(judged.sum())
                violations += int((error[judged] > bound[judged] * (1 + 1e-6) + 1e-12).sum())
                tightness += (error[judged] / bound[judged]).tolist()
    assert checks >= 10_000
    assert violations <= checks // 1000, f"{violations} of {checks}"
    assert np.median(tightness) > 0.3


@pytest.mark.long
def test_inter_path_lags_behind_intra_path() -> None:
    """The paper's Fig. 1: one path looks converged while two are still apart. Narrow modes, as of photographs' latents."""
    schedule = sd_schedule(50)
    model = replace(mixture(schedule), variances=torch.full((3,), 2e-3, dtype=torch.float64))
    z0 = model.draw(8, torch.Generator().manual_seed(0))
    r = invert(model.predict, schedule, z0, method("inter-path", tolerance=1e-9, max_iterations=40)).records
    lag = []
    for image in range(8):
        for step in range(1, 8):
            at = (r.image == image) & (r.step == step)
            intra = r.iteration[at][r.intra[at] < 2.2e-3].min()
            lag.append(r.iteration[at][r.inter[at] < 2.2e-3].min() - intra)
    assert min(lag) >= 0
    assert np.median(lag) >= 1
    assert max(lag) >= 2


def test_rows_do_not_depend_on_their_neighbours() -> None:
    schedule = sd_schedule(20)
    model = mixture(schedule, torch.float32)
    z0 = model.draw(9, torch.Generator().manual_seed(3))
    together = invert(model.predict, schedule, z0, method("certified"), batch_size=4)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    permuted = invert(model.predict, schedule, z0[order], method("certified"), batch_size=4)
    torch.testing.assert_close(permuted.latents, together.latents[order], rtol=0, atol=1e-5)
    assert [together.nfe[i] for i in order] == permuted.nfe
    alone = invert(model.predict, schedule, z0[2:3].repeat(4, 1, 1, 1), method("certified"), batch_size=4)
    torch.testing.assert_close(alone.latents[0], together.latents[2], rtol=0, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        "ddim",
        "fixed-point",
        "intra-path",
        "inter-path",
        "certified",
        "aidi",
        "renoise",
        "easyinv",
        "ddim-left",
        "spdinv",
        "renoise-sd-regularised",
    ],
)
def test_a_poisoned_row_leaves_the_others_bit_identical(name: str) -> None:
    schedule = sd_schedule(10)
    model = mixture(schedule, torch.float32)
    z0 = model.draw(5, torch.Generator().manual_seed(3))

    def poisoned(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        output = model.predict(z, t, image)
        bad = (image == 2) & (t > int(schedule.timesteps[4]))
        return torch.where(bad.view(-1, 1, 1, 1), torch.nan, output)

    seeds = [10, 11, 12, 13, 14]
    clean = invert(model.predict, schedule, z0, method(name), batch_size=5, seeds=seeds)
    dirty = invert(poisoned, schedule, z0, method(name), batch_size=5, seeds=seeds)
    assert dirty.status[2] == Status.NONFINITE
    assert dirty.latents.isfinite().all()
    others = [0, 1, 3, 4]
    assert torch.equal(clean.latents[others], dirty.latents[others])
    assert [clean.status[i] for i in others] == [dirty.status[i] for i in others]


def test_diverging_row_falls_back_to_the_best_iterate_and_says_so() -> None:
    schedule = sd_schedule(5)
    z0 = torch.ones((2, 1, 2, 2), dtype=torch.float64)

    def explosive(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        return -40 * (z - 1) + 0.1 * (image == 0).view(-1, 1, 1, 1)

    inversion = invert(explosive, schedule, z0, method("intra-path", tolerance=1e-9))
    assert inversion.status[0] in (Status.DIVERGING, Status.OSCILLATING)
    assert inversion.latents.isfinite().all()
    assert inversion.latents.abs().max() < 1e3


def test_identity_steps_cost_nothing() -> None:
    level = torch.tensor([0.9, 0.9, 0.5], dtype=torch.float64)
    schedule = Schedule.from_alphas(
        torch.tensor([10, 20, 30]), torch.tensor([0.9, 0.9, 0.9], dtype=torch.float64), level
    )
    calls = []

    def counted(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        calls.append(int(t[0]))
        return torch.zeros_like(z)

    inversion = invert(
        counted, schedule, torch.ones((1, 1, 2, 2), dtype=torch.float64), method("ddim"), keep_trajectory=True
    )
    assert calls == [30]
    assert inversion.nfe == [1]
    assert inversion.trajectory is not None
    assert torch.equal(inversion.trajectory[0, 0], inversion.trajectory[0, 2])


def test_trajectory_holds_every_state() -> None:
    schedule = sd_schedule(10)
    model = mixture(schedule)
    z0 = model.draw(5, torch.Generator().manual_seed(0))
    inversion = invert(model.predict, schedule, z0, method("certified"), batch_size=2, keep_trajectory=True)
    assert inversion.trajectory is not None
    assert inversion.trajectory.shape == (5, 11, 4, 4, 4)
    assert torch.equal(inversion.trajectory[:, 0], z0)
    assert torch.equal(inversion.trajectory[:, -1], inversion.latents)


def test_records_cost_one_transfer_and_no_evaluation() -> None:
    schedule = sd_schedule(10)
    model = mixture(schedule)
    rows = 0

    def counted(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        nonlocal rows
        rows += len(z)
        return model.predict(z, t, image)

    inversion = invert(
        counted, schedule, model.draw(4, torch.Generator().manual_seed(0)), method("inter-path"), batch_size=4
    )
    assert sum(inversion.nfe) == 2 * len(inversion.records)
    assert sum(inversion.nfe) == rows
    r = inversion.records
    final = np.flatnonzero(r.status != Status.RUNNING)
    assert len(final) == 4 * 10
    assert (np.diff(r.image) >= 0).all()
    assert (r.inter[final] < 1e-3).all()


def test_engine_stops_between_evaluations() -> None:
    schedule = sd_schedule(10)
    model = mixture(schedule)
    asked = iter([False, False, True])
    with pytest.raises(Cancelled):
        invert(
            model.predict,
            schedule,
            model.draw(2, torch.Generator().manual_seed(0)),
            method("ddim"),
            should_stop=lambda: next(asked),
        )


def test_no_images_and_more_slots_than_images() -> None:
    schedule = sd_schedule(3)
    model = mixture(schedule)
    empty = invert(model.predict, schedule, torch.empty((0, 4, 4, 4), dtype=torch.float64), method("certified"))
    assert len(empty.latents) == 0
    assert len(empty.records) == 0
    one = invert(
        model.predict, schedule, model.draw(1, torch.Generator().manual_seed(0)), method("certified"), batch_size=16
    )
    assert len(one.latents) == 1


METHODS = [
    "ddim",
    "fixed-point",
    "intra-path",
    "inter-path",
    "certified",
    "aidi",
    "renoise",
    "renoise-sd",
    "easyinv",
    "easyinv-sdxl",
    "ddim-left",
]


@given(
    rho=st.floats(-3.0, 3.0),
    name=st.sampled_from(METHODS),
    poison=st.sampled_from([None, "nan", "inf", "huge", "zero"]),
    damping=st.sampled_from([None, 0.5, 0.9]),
)
def test_a_status_never_flatters(rho: float, name: str, poison: str | None, damping: float | None) -> None:
    """Linear maps of any slope, poisoned at will: never an exception, CONVERGED only within the tolerance, bounded NFE."""
    schedule = sd_schedule(3)
    psi = schedule.psi

    def linear(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        i = int((schedule.timesteps - t[0]).abs().argmin())  # timestep 0 is nobody's
        output = rho / float(psi[i]) * z + 0.3
        if poison == "zero":
            return torch.zeros_like(z)
        if poison is not None:
            value = {"nan": torch.nan, "inf": torch.inf, "huge": 1e200}[poison]
            output = torch.where((image == 1).view(-1, 1, 1, 1), value, output)
        return output

    options = {} if name in ("renoise", "renoise-sd", "aidi") else {"damping": damping}
    chosen = method(name, max_iterations=12, iterations=5, **options)  # type: ignore[arg-type]
    inversion = invert(linear, schedule, torch.full((2, 1, 2, 2), 0.5, dtype=torch.float64), chosen, batch_size=1)
    assert inversion.latents.isfinite().all()
    assert max(inversion.nfe) <= 3 * 12 * chosen.paths
    r = inversion.records
    settled = r.status == Status.CONVERGED
    watched = {"inter-path": r.inter, "certified": r.bound}.get(name, r.intra)
    assert (watched[settled] < 1e-3).all()
    if poison in ("nan", "inf"):
        assert inversion.status[1] == Status.NONFINITE


@pytest.mark.long
def test_rows_that_nobody_needs_leave_the_batch() -> None:
    """Six images of unequal difficulty: the batch is full while images wait, then as small as those still iterating."""
    schedule = sd_schedule(20)
    model = mixture(schedule, torch.float64)
    z0 = model.draw(6, torch.Generator().manual_seed(2)).double() * torch.tensor([0, 1, 1, 1, 3, 9]).view(-1, 1, 1, 1)
    sizes: list[int] = []

    def counted(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        sizes.append(len(z))
        return model.predict(z, t, image)

    together = invert(counted, schedule, z0, method("inter-path", tolerance=1e-6), batch_size=4, seeds=[5] * 6)
    assert sizes[0] == 8
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == sum(together.nfe)  # not one row was evaluated in vain
    alone = [invert(model.predict, schedule, z[None], method("inter-path", tolerance=1e-6), seeds=[5]) for z in z0]
    torch.testing.assert_close(together.latents, torch.cat([one.latents for one in alone]), rtol=1e-9, atol=1e-12)
    assert together.nfe == [one.nfe[0] for one in alone]


@pytest.mark.long
@pytest.mark.parametrize("name", get_args(MethodName))
def test_every_row_the_network_computes_is_counted(name: MethodName) -> None:
    """Six images at batch 4: the four that are done at once leave two rows that nobody takes."""
    schedule = sd_schedule(5)
    model = mixture(schedule, torch.float64)
    z0, rows = model.draw(6, torch.Generator().manual_seed(2)).double(), 0

    def counted(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        nonlocal rows
        rows += len(z)
        return model.predict(z, t, image)

    found = invert(counted, schedule, z0, method(name, iterations=3), batch_size=4)
    assert sum(found.nfe) == rows
    assert name != "ddim" or rows == 6 * schedule.evaluations
    sample(counted, schedule, found.latents, batch_size=4)
    assert rows == sum(found.nfe) + 6 * schedule.evaluations


def test_sampling_splits_into_nearly_equal_batches() -> None:
    schedule = sd_schedule(3)
    model, sizes = mixture(schedule, torch.float64), []

    def counted(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        sizes.append((len(z), image.tolist()))
        return model.predict(z, t, image)

    z = torch.randn(9, *model.draw(1, torch.Generator()).shape[1:], dtype=torch.float64)
    whole = sample(counted, schedule, z, batch_size=4)
    assert [rows for rows, _ in sizes] == [3] * 9
    assert [images for _, images in sizes[::3]] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    torch.testing.assert_close(whole, sample(model.predict, schedule, z, batch_size=9), rtol=1e-12, atol=1e-12)
