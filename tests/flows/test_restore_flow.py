"""``fixpoint restore`` from the command line, and the rules of its configuration."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.config import RunConfig
from tests.chaos.check_output import check
from tests.flows.test_main_job import fixpoint, rows
from tests.photographs import hazy_photographs


def test_a_small_photo_is_enlarged_and_averages_back_to_itself(tmp_path: Path, prefect_api: str) -> None:
    (tmp_path / "in").mkdir()
    pixels = next(iter(hazy_photographs(96).values()))
    Image.fromarray(pixels).resize((24, 18)).save(tmp_path / "in" / "a.png")
    options = ["--task", "super-resolution", "-m", "builtin:haze", "--tolerance", "1e-2", "--json"]
    assert fixpoint("restore", str(tmp_path / "in"), str(tmp_path / "out"), *options)[0] == 0
    assert check(str(tmp_path / "out")) == []
    (row,) = rows(tmp_path / "out")
    own = np.asarray(Image.open(tmp_path / "in" / "a.png")).astype(float)
    made = np.asarray(Image.open(tmp_path / "out" / row["output_path"])).astype(float)
    assert np.abs(made.reshape(18, 2, 24, 2, 3).mean((1, 3)) - own).max() <= 1
    assert (tmp_path / "out" / "report" / "index.html").exists()


@pytest.mark.parametrize("operation", ["restore", "edit"])
def test_inventing_can_be_forbidden(operation: str) -> None:
    with pytest.raises(ValueError, match="makes up what no photo said"):
        RunConfig(operation=operation, inventing=False)
    with pytest.raises(ValueError, match="makes up what no photo said"):
        RunConfig(inventing=False).doing(operation)
    assert not RunConfig(operation="dehaze", inventing=False).inventing


def test_another_operation_has_its_own_defaults() -> None:
    restoring = RunConfig(seed=3).doing("restore")
    assert (restoring.operation, restoring.seed) == ("restore", 3)
    assert RunConfig().doing("edit").num_inference_steps == 25
    assert RunConfig(num_inference_steps=7).doing("edit").num_inference_steps == 7
