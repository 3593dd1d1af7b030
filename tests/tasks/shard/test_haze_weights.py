"""Which weights tell the density of haze: what is asked for is asked, and named in the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fpcore.builtin.demo_photographs import clear_photographs
from fpcore.dehazing.haze_estimate import HazeWeights, weights_digest
from tasks.config import RunConfig
from tests.tasks.shard.test_boundary import committed

KINDS: tuple[HazeWeights, ...] = ("research", "free")


@pytest.mark.long
def test_each_has_its_own_answer_and_its_own_digest(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    clear = dict(clear_photographs())["china"].astype(float)
    hazy = (clear * 0.4 + 0.6 * 210).round().astype(np.uint8)
    Image.fromarray(hazy).save(tmp_path / "photos" / "a.png")
    found, pictures = {}, {}
    for weights in KINDS:
        (row,) = committed(tmp_path / "photos", tmp_path / weights, RunConfig(haze_weights=weights))
        found[weights] = dict(row["metrics"])["haze_amount"]
        pictures[weights] = (tmp_path / weights / row["output_path"]).read_bytes()
    assert found["research"] != found["free"]
    for weights in KINDS:
        assert [weights_digest(kind).encode() in pictures[weights] for kind in KINDS] == [
            kind == weights for kind in KINDS
        ]


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="research"):
        RunConfig.model_validate({"haze_weights": "all"})
