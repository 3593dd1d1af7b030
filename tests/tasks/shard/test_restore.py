"""Restoring photos of a shard, without Prefect: rows, published pixels, refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fpcore.builtin.demo_photographs import clear_photographs
from fpcore.restoration.chroma import likely_colours
from fpcore.restoration.degradation import luma
from tasks.config import UNPROJECTED_METHODS, RunConfig
from tasks.photos.decode import Photo
from tasks.photos.sources import list_photos
from tasks.shard import restore
from tasks.shard.process import process_shard
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tests.photographs import hazy_photographs


def run(source: Path, output: Path, **settings: object) -> list[dict]:
    config = RunConfig(operation="restore", batch_size=4, **settings)  # type: ignore[arg-type]
    ledger = Ledger(open_store(str(output)))
    ledger.create_run(config.identity())
    ledger.plan_new(list_photos(str(source)), config.shard_size)
    for shard in ledger.open_shards():
        process_shard(str(output), config, *shard)
    found = [
        row for p in (output / "shards").glob("*.parquet") for row in pq.read_table(p).drop(["latent"]).to_pylist()
    ]
    return [{**row, "metrics": dict(row["metrics"] or ())} for row in found]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs in colour, grey (the first as JPEG) and small, and a mask each."""
    root = tmp_path_factory.mktemp("restore")
    for folder in ("color", "grey", "small", "masks"):
        (root / folder).mkdir()
    for i, (name, pixels) in enumerate(list(hazy_photographs(96).items())[:2]):
        image = Image.fromarray(pixels)
        image.save(root / "color" / f"{name}.png")
        image.convert("L").save(root / "grey" / (f"{name}.jpg" if i == 0 else f"{name}.png"))
        image.resize((24, 18)).save(root / "small" / f"{name}.png")
        mask = np.zeros(pixels.shape[:2], np.uint8)
        mask[20:40, 10 + i : 30] = 255
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    return root


@pytest.mark.long
def test_the_network_of_likely_colours_is_shown_photographs_as_sharp_as_it_was_trained_on() -> None:
    """Shown area averages, which are sharper, it answers with colours that differ by a tenth and more."""
    for _, pixels in clear_photographs():
        sharp = np.array(Image.fromarray(pixels).resize((256, 192), Image.Resampling.BOX).convert("L").convert("RGB"))
        whole = torch.from_numpy(sharp).permute(2, 0, 1).float() / 255
        small = F.interpolate(whole[None], (64, 64), mode="area")
        coloured = restore._coloured(small[0], Photo(sharp, None, "png"))[None] - small
        likely = F.interpolate(likely_colours(luma(whole[None])), (64, 64), mode="bilinear", antialias=True)
        right = likely - luma(likely)
        assert float((coloured - right).norm() / right.norm()) < 0.03


@pytest.mark.parametrize("method", UNPROJECTED_METHODS)
def test_a_method_that_finds_no_consistent_states_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="choose another method"):
        RunConfig(operation="restore", task="colorize", method=method)  # type: ignore[arg-type]


FOLDERS = {"colorize": "grey", "inpaint": "color", "super-resolution": "small"}
CASES = [
    *(("builtin:haze", task) for task in FOLDERS),
    *(("sd1", task) for task in FOLDERS),
    ("sd1-inpainting", "inpaint"),
]


@pytest.mark.parametrize(("name", "task"), CASES)
def test_every_task_keeps_what_the_photo_says_and_the_built_in_model_converges(
    photos: Path, tmp_path: Path, model_folder: Callable[[str], Path], name: str, task: str
) -> None:
    """The tiny models have random weights and so has their VAE: they run, and nothing promises that they contract."""
    folder, builtin = FOLDERS[task], name.startswith("builtin")
    model = name if builtin else str(model_folder(name))
    options: dict[str, object] = {"task": task, "pretrained_model_name_or_path": model, "invention_map": True}
    options |= {"tolerance": 1e-2} if builtin else {"method": "fixed-point", "iterations": 2, "num_inference_steps": 3}
    if task == "inpaint":
        options["mask_folder"] = str(photos / "masks")
    for row in run(photos / folder, tmp_path, **options):
        assert row["status"] == "ok", row["error_message"]
        own, made = Image.open(photos / folder / row["key"]), Image.open(tmp_path / row["output_path"])
        pixels = np.asarray(made.convert("RGB")).astype(float)
        if task == "colorize":
            assert made.mode == "RGB"
            assert np.abs(np.asarray(made.convert("L")).astype(int) - np.asarray(own)).max() <= 1
        elif task == "inpaint":
            outside = np.asarray(Image.open(photos / "masks" / row["key"])) == 0
            assert (pixels[outside] == np.asarray(own)[outside]).all()
            assert (pixels[~outside] != np.asarray(own)[~outside]).any()
        else:
            assert made.size == (own.width * 2, own.height * 2)
            blocks = pixels.reshape(own.height, 2, own.width, 2, 3).mean((1, 3))
            assert np.abs(blocks - np.asarray(own)).max() <= 1
        assert row["metrics"]["consistency_error"] <= 1
        assert row["sampling_status"] == row["inversion_status"] == ("converged" if builtin else "completed")
        assert row["metrics"].get("steps_converged", 1.0) >= 0.95
        assert ("steps_converged" in row["metrics"]) == builtin, "a fixed count judges nothing"
        assert {"step", "timestep", "intra", "rate", "bound"} <= set(row["sampling_steps"][0])
        assert row["invention_map"]["bytes"].startswith(b"\x89PNG")
        assert row["output_path"].endswith(".png"), "JPEG would change what is promised"
        assert b"compositeWithTrainedAlgorithmicMedia" in (tmp_path / row["output_path"]).read_bytes()


def test_what_would_be_too_large_is_refused_before_it_is_computed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Callable[[str], Path]
) -> None:
    monkeypatch.setattr(restore, "MAX_ENLARGED", 1000)
    rows = run(
        photos / "small", tmp_path, task="super-resolution", pretrained_model_name_or_path=str(model_folder("sd1"))
    )
    assert {(row["status"], row["error_code"]) for row in rows} == {("failed", "too-large")}


@pytest.mark.long
def test_grey_can_be_inverted_as_it_is_and_the_words_are_its_own(photos: Path, tmp_path: Path) -> None:
    """For models that know the words for grey and for colour; by default it is the photo in likely colours."""
    options = {"task": "colorize", "pretrained_model_name_or_path": "builtin:haze", "tolerance": 1e-2}
    likely = run(photos / "grey", tmp_path / "likely", **options)
    grey = run(photos / "grey", tmp_path / "grey", colour_start="grey", **options)
    assert {(row["prompt"], row["target_prompt"]) for row in likely} == {("", "")}
    assert {(row["prompt"], row["target_prompt"]) for row in grey} == {("black and white photo", "color photo")}
    for first, second in zip(likely, grey, strict=True):
        assert first["metrics"]["colourfulness_before"] == second["metrics"]["colourfulness_before"] == 0
        assert first["metrics"]["colourfulness_after"] > 1
        assert first["nfe"] < second["nfe"]
        assert json.loads(first["edit_settings"])["colour_start"].startswith("likely, by ")
        assert json.loads(second["edit_settings"])["colour_start"] == "grey"


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"pretrained_model_name_or_path": "builtin:scenes"}, 18),
        ({"pretrained_model_name_or_path": "somebody/model"}, 25),
        ({"pretrained_model_name_or_path": "builtin:scenes", "num_inference_steps": 7}, 7),
    ],
)
def test_steps_where_nothing_is_said(settings: dict[str, object], steps: int) -> None:
    assert RunConfig(operation="restore", **settings).num_inference_steps == steps  # type: ignore[arg-type]
