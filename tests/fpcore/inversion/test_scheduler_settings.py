"""Every scheduler setting that loading keeps, under the certified method and the exact samplers: no certificate is broken,
and everything comes back. The other methods are in ``…_peers`` and ``…_renoise``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fpcore.inversion.belm import TWO_STEP_RULES, invert_exactly, noise_status, sample_exactly
from fpcore.inversion.convergence import stop_errors
from fpcore.inversion.criteria import Status
from fpcore.inversion.edict import invert_coupled, sample_coupled
from fpcore.inversion.invert import invert
from fpcore.inversion.methods import method
from fpcore.inversion.sample import sample
from tests.fpcore.closed_form import mixture
from tests.fpcore.inversion.scheduler_settings import SETTINGS, schedule_of, schedules


def test_only_schedules_that_end_at_zero_signal_are_refused() -> None:
    refused = [s for s in SETTINGS if schedule_of(s) is None]
    assert len(SETTINGS) == 90
    # the others stay clear of the last timestep
    assert {s["timestep_spacing"] for s in refused} == {"trailing", "linspace"}
    assert all(s.get("rescale_betas_zero_snr") for s in refused)
    assert len(refused) == 12


@pytest.mark.long
def test_no_certificate_is_broken_on_any_schedule() -> None:
    """Every step is judged, evaluations are bounded, and where a bound is promised it holds."""
    checks = broken = 0
    for label, schedule in schedules():
        model = mixture(schedule)
        z0 = model.draw(2, torch.Generator().manual_seed(0))
        chosen = method("certified", tolerance=1e-4)
        run = invert(model.predict, schedule, z0, chosen, batch_size=2, keep_trajectory=True)
        assert run.latents.isfinite().all(), label
        assert max(run.nfe) <= len(schedule) * (chosen.max_iterations + 1)
        ended = run.records.status != Status.RUNNING
        solvable = float(schedule.rate.nan_to_num(0.0).max()) < 0.95
        if solvable:
            assert set(run.status) <= {Status.CONVERGED, Status.UNCERTIFIED}, label
        assert (np.isfinite(run.records.bound) | (run.records.status != Status.CONVERGED))[ended].all()
        stops = stop_errors(model.predict, schedule, run, precision=1e-9)
        weight = 1 / schedule.signal.numpy()[stops["step"]]
        promised = stops["status"] == "converged"
        checks += int(promised.sum())
        broken += int((stops["error"] * weight > stops["bound"] * (1 + 1e-6) + 1e-9)[promised].sum())
        back = sample(model.predict, schedule, run.latents)
        assert not solvable or float((back - z0).abs().max()) < 0.05, label
    assert checks > 300
    assert broken <= checks // 1000, f"{broken} of {checks}"


@pytest.mark.long
def test_every_exact_sampler_comes_back_on_every_schedule_or_says_that_its_latent_is_no_noise() -> None:
    spoilt = 0
    for label, schedule in schedules():
        model = mixture(schedule)
        z0 = model.draw(1, torch.Generator().manual_seed(0))
        for rule in TWO_STEP_RULES:
            pair = invert_exactly(model.predict, schedule, z0, rule=rule)
            size = float(pair.last.square().mean().sqrt())
            assert noise_status(size) == (Status.COMPLETED if 0.5 <= size <= 2 else Status.NOT_NOISE), label
            spoilt += noise_status(size) == Status.NOT_NOISE
            if size < 1e3:
                back = sample_exactly(model.predict, schedule, pair.last, pair.before, rule=rule)
                torch.testing.assert_close(back, z0, rtol=1e-5, atol=1e-5)
        pair = invert_coupled(model.predict, schedule, z0)
        back = sample_coupled(model.predict, schedule, pair.last, pair.before)
        torch.testing.assert_close(back, z0, rtol=1e-5, atol=1e-5)
    assert spoilt > 0
    assert noise_status(float("nan")) == Status.NONFINITE
