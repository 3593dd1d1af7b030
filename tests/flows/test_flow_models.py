"""``fixpoint invert`` and ``fixpoint edit`` with Stable Diffusion 3 and FLUX, from the command line, without Prefect."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from tests.photographs import write_photos
from tests.tiny_models import tiny_flux, tiny_sd3

pytestmark = [pytest.mark.model, pytest.mark.long]


@pytest.mark.parametrize("build", [tiny_sd3, tiny_flux])
def test_a_flow_model_edits_from_the_command_line(
    build: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    write_photos(tmp_path / "photos", 1)
    folder, output = str(build(tmp_path / "model")), tmp_path / "out"
    words = ["--prompt", "a photo of a cat", "--target", "a photo of a dog", "--guidance-scale", "2"]
    line = ["edit", str(tmp_path / "photos"), str(output), "-m", folder, *words, "--steps", "3", "--json"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output + done.stderr
    (row,) = pq.read_table(next((output / "shards").glob("*.parquet"))).drop(["latent"]).to_pylist()
    assert row["status"] == "ok"
    assert row["inversion_status"] in ("converged", "uncertified")
    assert row["output"]["bytes"] != row["reconstruction"]["bytes"]
    assert len(list((output / "images").iterdir())) == 1
