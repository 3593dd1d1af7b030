"""Every scheduler setting that loading keeps, and the schedules they make."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import DDIMScheduler

from fpcore.inversion.criteria import Status
from fpcore.inversion.invert import invert
from fpcore.inversion.methods import method
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


def schedules() -> Iterator[tuple[str, Schedule]]:
    """All that have an inverse, and what they are called."""
    for settings in SETTINGS:
        schedule = schedule_of(settings)
        if schedule is not None:
            yield label(settings), schedule


def check_every_schedule(name: str) -> None:
    """A method's walks along all of them: finite, every step judged, evaluations bounded.

    ReNoise's regularisation takes ε for N(0, I), which a mixture's is not: its descent may overflow, and the row says so.
    """
    chosen = method(name, tolerance=1e-4, iterations=4)
    regularised = name.endswith("regularised")
    walked = overflown = 0
    for label, schedule in schedules():
        model = mixture(schedule)
        z0 = model.draw(1, torch.Generator().manual_seed(0))
        run = invert(model.predict, schedule, z0, chosen, batch_size=1)
        assert run.latents.isfinite().all(), label
        overflown += Status.NONFINITE in run.status
        ended = run.records.status != Status.RUNNING
        moves = int((schedule.noise != schedule.noise_prev).sum())  # some schedules begin with a step to where they are
        assert len(set(run.records.step[ended])) == moves or Status.NONFINITE in run.status, label
        assert max(run.nfe) <= len(schedule) * (chosen.max_iterations + 1) * chosen.paths
        walked += 1
    assert walked == 78
    assert overflown < 78 / 2 if regularised else overflown == 0
