"""Region masks and depth maps that lie beside the photos: found by name, followed, and complained about."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tasks.config import RunConfig
from tasks.photos.decode import PhotoLimits
from tasks.photos.formats import PhotoError
from tasks.photos.sidecars import read_sidecar, resized
from tasks.photos.sources import list_photos
from tasks.shard.process import process_shard, versions
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tests.photographs import write_photos
from tests.tasks.photos import zoo


def committed(source: Path, output: Path, config: RunConfig) -> list[dict]:
    """Plan ``source``, process its one shard and read it back."""
    ledger = Ledger(open_store(str(output)))
    ledger.create_run(config.identity(), versions())
    ledger.plan_new(list_photos(str(source)), config.shard_size)
    shard = ledger.open_shards()[0]
    process_shard(str(output), config, shard.plan, shard.shard)
    return ledger.read_shard(shard.plan, shard.shard).to_pylist()


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, list[str]]:
    keys = write_photos(tmp_path / "photos", 2)
    return tmp_path / "photos", keys


def test_found_under_the_same_name_or_as_png(tmp_path: Path) -> None:
    grey = (np.arange(60).reshape(6, 10) * 4).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray((grey.astype(np.uint16)) * 257).save(tmp_path / "b.png")
    for name in ("a.png", "a.jpg", "b.png"):
        np.testing.assert_allclose(read_sidecar(str(tmp_path), name, "mask", PhotoLimits()), grey / 255, atol=1e-6)
    with pytest.raises(PhotoError, match=r"No mask c\.jpg or c\.png") as missing:
        read_sidecar(str(tmp_path), "c.jpg", "mask", PhotoLimits())
    assert missing.value.code == "mask-missing"
    (tmp_path / "d.png").write_text("no picture")
    with pytest.raises(PhotoError, match=r"depth map d\.png cannot be used") as damaged:
        read_sidecar(str(tmp_path), "d.png", "depth map", PhotoLimits())
    assert damaged.value.code == "depth-map-damaged"


def test_a_mask_is_decoded_within_the_limits_of_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No interpreter is started for PostScript, and no gigapixel is unpacked."""
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **options: pytest.fail("a program was started"))
    (tmp_path / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 30000 30000\nshowpage\n")
    (tmp_path / "bomb.png").write_bytes(next(case.data for case in zoo.bombs() if case.name == "bomb-png-900-mp"))
    started = time.perf_counter()
    for name, said in (("eps.png", "no picture file"), ("bomb.png", "30000 x 30000 pixels")):
        with pytest.raises(PhotoError, match=said) as refused:
            read_sidecar(str(tmp_path), name, "mask", PhotoLimits())
        assert refused.value.code == "mask-damaged"
    assert time.perf_counter() - started < 2


def test_resized_by_area_or_bilinearly() -> None:
    grey = np.arange(24, dtype=np.float32).reshape(4, 6) / 24
    np.testing.assert_allclose(resized(grey, (2, 3)), grey.reshape(2, 2, 3, 2).mean((1, 3)), atol=1e-6)
    large = resized(grey, (40, 60))
    assert large.shape == (40, 60)
    assert (np.diff(large, axis=1) >= -1e-6).all()
    assert resized(grey, (4, 6)) is grey


@pytest.mark.long
@pytest.mark.parametrize("method", ["words-by-place", "dcp"])
def test_only_what_the_mask_shows_is_dehazed(method: str, photos: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, keys = photos
    (tmp_path / "masks").mkdir()
    height, width = picture(folder / keys[0]).shape[:2]
    mask = np.zeros((height // 2, width // 2), np.uint8)  # of another size than the photo
    mask[:, width // 4 :] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / keys[0])
    config = RunConfig(dehaze_variant=method, num_inference_steps=4, mask_folder=str(tmp_path / "masks"))
    rows = committed(folder, tmp_path / "out", config)
    assert [row["status"] for row in rows] == ["ok", "failed"]  # the second has no mask
    assert rows[1]["error_code"] == "mask-missing"
    before, after = picture(folder / keys[0]), picture(tmp_path / "out" / rows[0]["output_path"])
    np.testing.assert_array_equal(after[:, : width // 2 - 2], before[:, : width // 2 - 2])
    assert np.abs(after - before)[:, width // 2 + 2 :].mean() > 5


@pytest.mark.long
def test_a_depth_map_decides_where_the_prior_weighted_method_works(
    photos: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """All near is plain reconstruction, all far is regeneration without the word."""
    folder, keys = photos
    results = {}
    for name, level in (("near", 0), ("far", 255)):
        (tmp_path / name).mkdir()
        for key in keys:
            Image.fromarray(np.full((20, 30), level, np.uint8)).save(tmp_path / name / key)
        config = RunConfig(dehaze_variant="prior-weighted", num_inference_steps=8, depth_folder=str(tmp_path / name))
        results[name] = committed(folder, tmp_path / f"out-{name}", config)
    for near, far in zip(results["near"], results["far"], strict=True):
        assert dict(near["metrics"])["structure_distance"] < 0.01
        assert far["output"]["bytes"] != near["output"]["bytes"]
        darker = [dict(row["metrics"])["dark_channel_after"] for row in (far, near)]
        assert darker[0] < darker[1]


def test_maps_that_nothing_reads_are_refused() -> None:
    with pytest.raises(ValidationError, match="prior-weighted only"):
        RunConfig(depth_folder="maps")
    with pytest.raises(ValidationError, match="masks bound dehazing or say where to inpaint"):
        RunConfig(operation="edit", mask_folder="masks")
