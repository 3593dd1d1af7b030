"""Every scheduler setting that loading keeps, crossed with every method: it comes back, and no certificate is broken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from fpcore.inversion.belm import TWO_STEP_RULES, invert_exactly, noise_status, sample_exactly
from fpcore.inversion.convergence import stop_errors
from fpcore.inversion.criteria import Status
from fpcore.inversion.edict import invert_coupled, sample_coupled
from fpcore.inversion.invert import invert
from fpcore.inversion.methods import method
from fpcore.inversion.sample import sample
from fpcore.inversion.schedule import Schedule
from tests.fpcore.closed_form import mixture

STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SETTINGS = [
    {**betas, **snr, "prediction_type": kind, "timestep_spacing": spacing, "set_alpha_to_one": one, "steps_offset": offset}
    for betas, snr in ((STABLE, {}), ({"beta_schedule": "squaredcos_cap_v2"}, {}), (STABLE, {"rescale_betas_zero_snr": True}))
    for kind in ("epsilon", "v_prediction", "sample")
    for spacing in ("leading", "trailing", "linspace", "log-sigma")
    for one in (False, True)
    for offset in (0, 1)
    if spacing == "leading" or offset == 0  # only leading spacing reads the offset
]  # fmt: skip
METHODS = ["ddim", "fixed-point", "intra-path", "inter-path", "certified", "aidi", "renoise", "easyinv", "spdinv"]
STEPS = 6


def schedule_of(settings: dict[str, object]) -> Schedule | None:
    """None where the schedule ends at zero signal, which has no inverse and is refused with a sentence."""
    maker = DDIMScheduler
    scheduler = maker(clip_sample=False, **{**settings, "timestep_spacing": "leading"})  # type: ignore[arg-type]
    try:
        return Schedule.from_scheduler(scheduler, STEPS, settings["timestep_spacing"])  # type: ignore[arg-type]
    except ValueError as error:
        if "zero terminal SNR" not in str(error):
            raise
        return None


def label(settings: dict[str, object]) -> str:
    return ",".join(str(value) for name, value in settings.items() if not name.startswith("beta_s"))


def test_only_schedules_that_end_at_zero_signal_are_refused() -> None:
    refused = [s for s in SETTINGS if schedule_of(s) is None]
    assert len(SETTINGS) == 90
    # the others stay clear of the last timestep
    assert {s["timestep_spacing"] for s in refused} == {"trailing", "linspace"}
    assert all(s.get("rescale_betas_zero_snr") for s in refused)
    assert len(refused) == 12


@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_every_method_walks_every_schedule(name: str) -> None:
    """Finite, every step judged, evaluations bounded; where it says converged, no bound is broken and it comes back."""
    checks = broken = 0
    for settings in SETTINGS if name == "certified" else SETTINGS[::5]:
        schedule = schedule_of(settings)
        if schedule is None:
            continue
        model = mixture(schedule)
        z0 = model.draw(2, torch.Generator().manual_seed(0))
        chosen = method(name, tolerance=1e-4, iterations=4)
        run = invert(model.predict, schedule, z0, chosen, batch_size=2, keep_trajectory=True)
        assert run.latents.isfinite().all(), label(settings)
        ended = run.records.status != Status.RUNNING
        assert Status.NONFINITE not in run.status, label(settings)
        assert max(run.nfe) <= len(schedule) * (chosen.max_iterations + 1) * chosen.paths
        if name == "certified":
            solvable = float(schedule.rate.nan_to_num(0.0).max()) < 0.95
            if solvable:
                assert set(run.status) <= {Status.CONVERGED, Status.UNCERTIFIED}, label(settings)
            assert (np.isfinite(run.records.bound) | (run.records.status != Status.CONVERGED))[ended].all()
            stops = stop_errors(model.predict, schedule, run, precision=1e-9)
            weight = 1 / schedule.signal.numpy()[stops["step"]]
            promised = stops["status"] == "converged"
            checks += int(promised.sum())
            broken += int((stops["error"] * weight > stops["bound"] * (1 + 1e-6) + 1e-9)[promised].sum())
            back = sample(model.predict, schedule, run.latents)
            assert not solvable or float((back - z0).abs().max()) < 0.05, label(settings)
    if name == "certified":
        assert checks > 300
        assert broken <= checks // 1000, f"{broken} of {checks}"


def test_every_exact_sampler_comes_back_on_every_schedule_or_says_that_its_latent_is_no_noise() -> None:
    spoilt = 0
    for settings in SETTINGS[::3]:
        schedule = schedule_of(settings)
        if schedule is None:
            continue
        model = mixture(schedule)
        z0 = model.draw(1, torch.Generator().manual_seed(0))
        for rule in TWO_STEP_RULES:
            pair = invert_exactly(model.predict, schedule, z0, rule=rule)
            size = float(pair.last.square().mean().sqrt())
            assert noise_status(size) == (Status.COMPLETED if 0.5 <= size <= 2 else Status.NOT_NOISE)
            spoilt += noise_status(size) == Status.NOT_NOISE
            if size < 1e3:
                back = sample_exactly(model.predict, schedule, pair.last, pair.before, rule=rule)
                torch.testing.assert_close(back, z0, rtol=1e-5, atol=1e-5)
        pair = invert_coupled(model.predict, schedule, z0)
        back = sample_coupled(model.predict, schedule, pair.last, pair.before)
        torch.testing.assert_close(back, z0, rtol=1e-5, atol=1e-5)
    assert spoilt > 0
    assert noise_status(float("nan")) == Status.NONFINITE
