"""Every family through a whole shard, without a Prefect server: planned, inverted, edited, dehazed, committed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.config import RunConfig
from tasks.shard.process import process_shard
from tasks.steps import check, plan
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tests.photographs import write_photos
from tests.tiny_models import tiny_flux, tiny_sd2, tiny_sd3, tiny_sdxl

pytestmark = pytest.mark.model
WORDS = {"prompt": "a photo of a cat", "target_prompt": "a photo of a dog", "guidance_scale": 2.0}
BUILDERS: dict[str, Callable[[Path], Path]] = {
    "sd3": tiny_sd3,
    "flux": tiny_flux,
    "sdxl": tiny_sdxl,
    "sd2": tiny_sd2,
    "sd2, zero terminal SNR": lambda folder: rescaled(tiny_sd2(folder)),
}


def rescaled(folder: Path) -> Path:
    """The same with zero terminal SNR and leading steps, which stay clear of the last timestep."""
    file = folder / "scheduler" / "scheduler_config.json"
    changes = {"rescale_betas_zero_snr": True, "timestep_spacing": "leading"}
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.fixture(scope="module", params=list(BUILDERS))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Name and folder."""
    return request.param, str(BUILDERS[request.param](tmp_path_factory.mktemp("family") / "model"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, 2)
    return str(folder)


def rows(photos: str, output: Path, **settings: Any) -> list[dict[str, Any]]:
    """What a run commits."""
    config = RunConfig(num_inference_steps=3, device="cpu", **settings)
    plan(photos, str(output), config)
    assert process_shard(str(output), config, 1, 0)["won"]
    names = ["status", "inversion_status", "nfe", "output", "reconstruction", "metrics", "error_message"]
    found = Ledger(open_store(str(output))).read_shard(1, 0, names).to_pylist()
    assert [row["error_message"] for row in found] == [None, None]
    return found


def test_a_family_inverts_edits_and_dehazes(family: tuple[str, str], photos: str, tmp_path: Path) -> None:
    name, folder = family
    shared = {"pretrained_model_name_or_path": folder}
    for row in rows(photos, tmp_path / "invert", operation="invert", tolerance=1e-5, **shared):
        assert row["inversion_status"] in ("converged", "uncertified"), name
    for row in rows(photos, tmp_path / "edit", operation="edit", **shared, **WORDS):
        assert row["output"]["bytes"] != row["reconstruction"]["bytes"]
    assert len(rows(photos, tmp_path / "dehaze", dehaze_variant="regenerate", **shared)) == 2


@pytest.mark.parametrize("sampler", ["rf-inversion", "rf-solver", "fireflow"])
def test_flow_samplers_edit_flow_models_and_no_others(
    sampler: Any, family: tuple[str, str], photos: str, tmp_path: Path
) -> None:
    name, folder = family
    settings = {"pretrained_model_name_or_path": folder, "operation": "edit", "sampler": sampler, **WORDS}
    if name not in ("sd3", "flux"):
        with pytest.raises(ValueError, match="is for rectified flow"):
            check(RunConfig(num_inference_steps=3, device="cpu", **settings))
        return
    branches = 2 if name == "flux" else 3  # FLUX is told its guidance, SD 3 evaluates twice for it
    once = {"rf-inversion": 3, "rf-solver": 6, "fireflow": 4}[sampler]
    for row in rows(photos, tmp_path, **settings):
        assert row["nfe"] == once * (1 + branches)
        assert row["output"]["bytes"] != row["reconstruction"]["bytes"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"operation": "invert", "sampler": "o-belm"}, "is not for rectified flow"),
        ({"operation": "edit", "attention_maps": True}, "leave attention_maps out"),
        ({"operation": "dehaze", "dehaze_variant": "words-by-place"}, "--method regenerate"),
        ({"operation": "invert", "num_inference_steps": 1001}, "less than or equal to 1000"),
    ],
)
def test_what_a_flow_model_cannot_do_is_refused_before_any_photo(
    settings: dict[str, Any], named: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "refusing"
    if not folder.exists():
        tiny_flux(folder)
    with pytest.raises(ValueError, match=named):
        check(RunConfig(pretrained_model_name_or_path=str(folder), device="cpu", **settings))
