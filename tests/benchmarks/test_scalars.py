"""The benchmark of likely scales restores a photograph by every scale and takes the one its rule says."""

import pytest
import torch
from PIL import Image

from benchmarks import scalars
from benchmarks.versions import uneven
from fpcore.builtin.demo_photographs import clear_photographs
from fpcore.models.load import load_model

pytestmark = pytest.mark.model


def test_candidates_are_judged_by_truth_and_by_likelihood() -> None:
    image = Image.fromarray(next(iter(clear_photographs()))[1])
    image.thumbnail((192, 192))
    results, reached = scalars.candidates(*uneven(image, torch.Generator().manual_seed(0)))
    assert len(results) == len(reached) == len(scalars.SCALES)
    assert float(results[0].mean()) > float(results[-1].mean()), "the more haze is taken off, the darker"
    errors = scalars.errors_of(load_model("builtin:haze"), results)
    assert errors.shape == (len(scalars.SCALES), 2)
    taken = {name: int(rule(errors[None], reached[None])) for name, rule in scalars.RULES.items()}
    assert scalars.SCALES[taken["the estimate as it is"]] == 1
    assert taken["least error under clear"] == int(errors[:, 0].argmin())
    assert reached[taken["the truth"]] == reached.max()
