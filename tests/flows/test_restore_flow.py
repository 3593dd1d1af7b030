"""``fixpoint restore`` from the command line, and the rules of its configuration."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prefect import get_client
from prefect.flow_engine import run_flow

from flows.restore import restore
from tasks.config import RunConfig
from tests.chaos.check_output import check
from tests.flows.test_main_job import fixpoint, rows
from tests.photographs import hazy_photographs

TASKS = ("colorize", "inpaint", "super-resolution")
QUICK: dict[str, Any] = {"method": "fixed-point", "iterations": 2, "num_inference_steps": 3}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph, grey and in colour and small, and a mask under its name."""
    root = tmp_path_factory.mktemp("damaged")
    image = Image.fromarray(next(iter(hazy_photographs(96).values())))
    mask = Image.new("L", image.size)
    mask.paste(255, (20, 20, 50, 40))
    small = image.resize((24, 18))
    kinds = {"colorize": image.convert("L"), "inpaint": image, "super-resolution": small, "masks": mask}
    for kind, picture in kinds.items():
        (root / kind).mkdir()
        picture.save(root / kind / "a.png")
    return root


def keeps_what_the_photo_says(output: Path, task: str) -> None:
    assert check(str(output)) == []
    (row,) = rows(output)
    assert (row["status"], row["sampling_status"]) == ("ok", "completed")
    assert f'"task": "{task}"' in row["edit_settings"]
    assert dict(row["metrics"])["consistency_error"] <= 1
    assert (output / row["output_path"]).exists()


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
def test_stable_diffusion_restores_from_the_command_line(
    damaged: Path, tmp_path: Path, prefect_api: str, model_folder: Callable[[str], Path], task: str
) -> None:
    line = ["restore", str(damaged / task), str(tmp_path / "out"), "--task", task, "-m", str(model_folder("sd1"))]
    line += ["--masks", str(damaged / "masks")] if task == "inpaint" else []
    assert fixpoint(*line, *(w for k, v in QUICK.items() for w in ("--set", f"{k}={v}")), "--json")[0] == 0
    keeps_what_the_photo_says(tmp_path / "out", task)


@pytest.mark.long
def test_stable_diffusion_restores_from_a_deployment(
    damaged: Path, tmp_path: Path, prefect_api: str, model_folder: Callable[[str], Path]
) -> None:
    """On a real server; each run with what its form sends, the deployment has the rest."""
    rest = {"inversion": QUICK, "model": {"pretrained_model_name_or_path": str(model_folder("sd1"))}}
    parameters = {"source": "nowhere", "output": "nowhere", "config": rest, "execution": {"report": False}}
    deployment = restore.to_deployment("tiny", parameters=parameters).apply()
    with get_client(sync_client=True) as client:
        for task in TASKS:
            asked = {"task": task} | ({"mask_folder": str(damaged / "masks")} if task == "inpaint" else {})
            own = {"source": str(damaged / task), "output": str(tmp_path / task), "config": {"restoration": asked}}
            run = client.create_flow_run_from_deployment(deployment, parameters=own)
            run_flow(restore, flow_run=run, parameters=run.parameters)
            keeps_what_the_photo_says(tmp_path / task, task)


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
