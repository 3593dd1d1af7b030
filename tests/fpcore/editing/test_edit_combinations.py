"""Every guidance mode after plain and certified inversion, and plain guidance after every inversion method.

An edit starts from latents and, where it asks for one, a trajectory; which method found them it cannot know.
"""

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from fpcore.editing.edit import edit
from fpcore.editing.settings import GUIDANCE_MODES, EditSettings, GuidanceMode
from fpcore.inversion.invert import invert
from fpcore.inversion.methods import MethodName, method
from fpcore.inversion.schedule import Schedule
from fpcore.models.model import Model

SOURCES, TARGETS = ["a photo of a cat", "the mountain road"], ["a photo of a dog", "the mountain house"]

THOROUGHLY = ("ddim", "certified")


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("sd1")


@pytest.mark.parametrize(
    ("name", "guidance"),
    [(name, mode) for name in get_args(MethodName) for mode in GUIDANCE_MODES if mode == "none" or name in THOROUGHLY],
)
def test_any_mode_edits_after_any_inversion(model: Model, name: str, guidance: GuidanceMode) -> None:
    schedule, condition = Schedule.from_scheduler(model.scheduler, 3), model.embed(SOURCES)
    z0 = 0.5 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def predict(z: Tensor, t: Tensor, image: Tensor) -> Tensor:
        return model.predict(z, t, condition.rows(image))

    chosen = method(name, iterations=3, max_iterations=6)
    found = invert(predict, schedule, z0, chosen, batch_size=2, keep_trajectory=True)
    assert found.trajectory is not None
    settings = EditSettings(guidance=guidance, guidance_scale=3.0)
    edited = edit(model, schedule, found.latents, SOURCES, TARGETS, settings, trajectory=found.trajectory)
    assert edited.target.isfinite().all()
    assert not torch.equal(edited.target, edited.source)
    if guidance == "direct-inversion":
        torch.testing.assert_close(edited.source, z0, rtol=0, atol=1e-4)
