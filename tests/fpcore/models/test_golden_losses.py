"""Losses of a seeded run on Stable Diffusion 1's architecture, scaled down. Changed only together with a CHANGELOG line."""

from collections.abc import Callable

import numpy as np
import torch

from fpcore.inversion.invert import invert
from fpcore.inversion.methods import method
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model

SEED = 9
INTRA = [
    0.0007910025,
    2.524173e-07,
    0.1319943,
    0.001386456,
    0.2135086,
    0.002146381,
    0.2459961,
    0.003755043,
    0.2046037,
    0.005609736,
]
INTER = [
    0.0001764756,
    1.012039e-07,
    0.006719539,
    0.0001632724,
    0.006054285,
    0.0001698016,
    0.008038222,
    0.0004626796,
    0.01153817,
    0.001706908,
]


def test_losses_of_five_steps_are_what_they_were(tiny_model: Callable[[str], Model]) -> None:
    model = tiny_model("sd1")
    schedule = Schedule.from_scheduler(model.scheduler, 5)
    condition = model.embed(["a photo of a cat"])
    z0 = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(SEED))
    run = invert(
        lambda z, t, image: model.predict(z, t, condition.rows(image)), schedule, z0,
        method("fixed-point", iterations=2, paths=2), seeds=[SEED],
    )  # fmt: skip
    np.testing.assert_allclose(run.records.intra, INTRA, rtol=1e-5, atol=2e-7)
    np.testing.assert_allclose(run.records.inter, INTER, rtol=1e-5, atol=2e-7)
