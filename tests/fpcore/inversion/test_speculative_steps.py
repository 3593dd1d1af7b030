"""Steps that are taken without an evaluation and checked on the one after them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fpcore.inversion.convergence import final_residuals, one_step
from fpcore.inversion.criteria import Certified, Status
from fpcore.inversion.invert import Predict, invert
from fpcore.inversion.methods import Method, method
from fpcore.inversion.sample import sample
from tests.fpcore.closed_form import mixture, sd_schedule

TOLERANCE = 2e-3


@pytest.mark.long
def test_speculative_steps_are_as_close_to_their_fixed_points_as_the_others() -> None:
    """Every state against its fixed point found to 1e-11, 4 × 52 images × 50 steps.

    The few beyond the tolerance belong to images that decide between two modes, where the certificate's premise, a
    contraction no slower than r_t, does not hold, and one evaluation a step cannot notice.
    """
    far = steps = evaluations = 0
    for seed in range(4):
        schedule = sd_schedule(50)
        model = mixture(schedule, seed=seed)
        z0 = model.draw(52, torch.Generator().manual_seed(seed))
        chosen = method("certified", tolerance=TOLERANCE, norm="state")
        run = invert(model.predict, schedule, z0, chosen, batch_size=52, keep_trajectory=True)
        assert set(run.status) == {Status.CONVERGED}
        assert run.trajectory is not None
        evaluations += sum(run.nfe)
        precise = method(
            "certified", tolerance=1e-11, max_iterations=400, anderson=3, norm="state", speculative_below=0.0
        )
        for i in range(len(schedule)):
            root = invert(model.predict, one_step(schedule, i), run.trajectory[:, i], precise, batch_size=52).latents
            error = (run.trajectory[:, i + 1] - root).flatten(1).square().mean(1).sqrt()
            far += int((error > TOLERANCE).sum())
            steps += len(error)
    assert steps >= 10_000
    assert evaluations < 0.7 * steps
    assert far <= steps // 500, f"{far} of {steps}"


def test_fewer_evaluations_than_steps_at_the_same_round_trip() -> None:
    schedule = sd_schedule(50)
    model = mixture(schedule)
    z0 = model.draw(8, torch.Generator().manual_seed(0))
    found = {
        share: invert(
            model.predict, schedule, z0, method("certified", tolerance=1e-2, speculative_below=share), batch_size=8
        )
        for share in (0.0, 0.5)
    }
    assert all(n >= 50 for n in found[0.0].nfe)
    assert np.mean(found[0.5].nfe) < 0.8 * np.mean(found[0.0].nfe)
    back = sample(model.predict, schedule, found[0.5].latents, batch_size=8)
    assert float((back - z0).square().mean().sqrt()) < 1e-2


def kinked(at: int) -> Predict:
    """A network whose direction is a constant and jumps at timestep ``at``: no line predicts that."""

    def predict(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        return torch.where((t >= at).view(-1, 1, 1, 1), 1.0, 0.1) * torch.ones_like(z)

    return predict


def test_a_speculative_step_that_is_not_confirmed_is_undone() -> None:
    schedule = sd_schedule(20)
    kink = int(schedule.timesteps[9])
    predict = kinked(kink)
    chosen = method("certified", tolerance=1e-3, norm="state", certify_below=1.0)
    run = invert(predict, schedule, torch.zeros((2, 1, 2, 2), dtype=torch.float64), chosen, keep_trajectory=True)
    assert set(run.status) == {Status.CONVERGED}
    assert max(run.nfe) < 20
    r = run.records.of_image(0)
    assert len(r) == run.nfe[0]
    failed = np.flatnonzero((np.diff(r.step) == 0) & (r.status[:-1] == Status.RUNNING))
    assert r.iteration[failed + 1].max() >= 2  # the failed check is the step's first record
    assert run.trajectory is not None
    residual = final_residuals(predict, schedule, run.trajectory)
    assert float(residual.max()) < 1e-3


def test_the_trajectory_holds_speculative_states_too() -> None:
    schedule = sd_schedule(30)
    model = mixture(schedule)
    z0 = model.draw(5, torch.Generator().manual_seed(1))
    run = invert(model.predict, schedule, z0, method("certified", tolerance=1e-2), batch_size=2, keep_trajectory=True)
    assert run.trajectory is not None
    assert max(run.nfe) < 30
    moved = run.trajectory.diff(dim=1).flatten(2).abs().amax(2)
    assert bool((moved > 0).all())
    assert torch.equal(run.trajectory[:, -1], run.latents)


def test_poison_beside_and_under_a_speculative_step() -> None:
    schedule = sd_schedule(30)
    model = mixture(schedule)
    z0 = model.draw(4, torch.Generator().manual_seed(1))

    def poisoned(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        bad = (image == 1) & (t >= int(schedule.timesteps[12]))
        return torch.where(bad.view(-1, 1, 1, 1), torch.nan, model.predict(z, t, image))

    chosen = method("certified", tolerance=1e-2)
    clean = invert(model.predict, schedule, z0, chosen, batch_size=4)
    dirty = invert(poisoned, schedule, z0, chosen, batch_size=4)
    assert dirty.status[1] == Status.NONFINITE
    assert dirty.latents.isfinite().all()
    assert torch.equal(clean.latents[[0, 2, 3]], dirty.latents[[0, 2, 3]])


def test_one_allowed_iteration_still_undoes() -> None:
    schedule = sd_schedule(20)
    predict = kinked(int(schedule.timesteps[9]))
    chosen = replace(method("certified", tolerance=1e-3, norm="state"), max_iterations=1)
    run = invert(predict, schedule, torch.zeros((1, 1, 2, 2), dtype=torch.float64), chosen)
    assert run.status[0] == Status.MAX_ITERATIONS  # where the direction jumps, one iteration is not enough: it says so


@pytest.mark.parametrize("options", [{"name": "intra-path"}, {"name": "certified", "guess": "last"}])
def test_speculative_steps_need_a_certificate_and_a_line(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="speculative steps need"):
        method(**options, speculative_below=0.5)  # type: ignore[arg-type]
    assert Method("x", Certified()).speculative_below == 0
