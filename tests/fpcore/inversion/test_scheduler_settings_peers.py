"""Every scheduler setting that loading keeps, under every method but the certified one (``test_scheduler_settings``)."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from fpcore.inversion.criteria import Status
from fpcore.inversion.invert import invert
from fpcore.inversion.methods import MethodName, method
from tests.fpcore.closed_form import mixture
from tests.fpcore.inversion.scheduler_settings import schedules

PEERS = [name for name in get_args(MethodName) if name != "certified"]


@pytest.mark.long
@pytest.mark.parametrize("name", PEERS)
def test_every_method_walks_every_schedule(name: str) -> None:
    """Finite, every step judged, evaluations bounded.

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
