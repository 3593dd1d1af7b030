"""How far z_T may be from the exact inversion: the certified bounds of all steps, carried to the end of the path.

The step that ends at ẑ_t within b_t of its own fixed point started from ẑ_{t-1}, which is itself off by E_{t-1}. With
(I − J_t) e_t = φ_t e_{t-1} + ρ_t and J_t ≤ r_t,

    E_t = φ_t/(1 − r_t) · E_{t-1} + b_t,   E_0 = 0.

For an ideal denoiser r_t = 1 − σ̃_{t-1}/σ̃_t, so that φ_t/(1 − r_t) = s_t/s_{t-1} and E_T = Σ_t (s_T/s_t) b_t: an error made
at noise level s_t grows at most as the noise does.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fpcore.inversion.criteria import Status
from fpcore.inversion.methods import Method
from fpcore.inversion.records import StepRecords
from fpcore.inversion.schedule import Schedule

Columns = NDArray[np.float64]


def path_bound(records: StepRecords, schedule: Schedule, method: Method, count: int) -> Columns:
    """A bound on RMS(ẑ_T − z_T) of each of ``count`` images, infinite where a step has none.

    A speculative step was not evaluated; what its direction
    missed is taken to be no more than what the check one step further along the same line missed.
    NaN for methods that do not return f(z), of which the steps' bounds say nothing.
    """
    if not method.returns_f:
        return np.full(count, np.nan)
    original = schedule.real.numpy()
    schedule = schedule.take(schedule.real)
    records = replace(records, step=np.searchsorted(original, records.step))
    bound, intra, rate = _last_of_each_step(records, schedule, method, count)
    phi, psi = schedule.phi.numpy(), schedule.psi.numpy()
    known = np.nan_to_num(schedule.rate.numpy(), nan=1.0)
    error, missed = np.zeros(count), np.isnan(bound)
    for t in range(len(schedule)):
        if t + 1 < len(schedule):  # what a speculative step is reckoned with
            r = np.where(missed[:, t], known[t] * np.maximum(rate[:, t + 1] / known[t + 1], 1), rate[:, t])
            residual = psi[t] / psi[t + 1] * intra[:, t + 1]
        else:
            r, residual = rate[:, t], np.full(count, np.inf)
        kept = 1 - np.minimum(np.nan_to_num(r, nan=1.0), 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.where(missed[:, t], residual / kept, bound[:, t])
            carried = np.where(error > 0, phi[t] / kept * error, 0.0)
        error = carried + step
    return np.where(np.isnan(error), np.inf, error)


def _last_of_each_step(
    records: StepRecords, schedule: Schedule, method: Method, count: int
) -> tuple[Columns, Columns, Columns]:
    """Bound, residual (both on the state z) and rate (count, N) of the evaluation each step ended with; NaN: none."""
    found = np.full((3, count, len(schedule)), np.nan)
    ended = records.status != Status.RUNNING
    at = records.image[ended], records.step[ended]
    scale = schedule.signal.numpy()[at[1]] if method.measures_picture(schedule) else 1.0
    # a step that ended badly returned an earlier iterate, which its last bound is not of
    certain = records.status[ended] < Status.MAX_ITERATIONS
    bound = np.where(certain, records.bound[ended] * scale, np.inf)
    found[:, at[0], at[1]] = bound, records.intra[ended] * scale, records.rate[ended]
    return found[0], found[1], found[2]
