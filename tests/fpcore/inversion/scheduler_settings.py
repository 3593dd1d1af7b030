"""Every scheduler setting that loading keeps, and the schedules they make."""

from __future__ import annotations

from collections.abc import Iterator

from diffusers import DDIMScheduler

from fpcore.inversion.schedule import Schedule

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
