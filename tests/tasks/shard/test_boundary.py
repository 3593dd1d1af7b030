"""One boundary a photo: whatever is raised while one is worked on is its row; its neighbours are committed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fpcore.inversion.invert import Cancelled
from tasks.config import RunConfig
from tasks.photos.formats import PhotoError
from tasks.photos.sources import list_photos
from tasks.shard import dehaze, load, process, publish
from tasks.shard.boundary import within
from tasks.shard.process import process_shard, versions
from tasks.store.errors import StoreUnavailable
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tests.photographs import write_photos

DCP = RunConfig(dehaze_variant="dcp")


def plan(source: Path, output: Path, config: RunConfig) -> Ledger:
    ledger = Ledger(open_store(str(output)))
    ledger.create_run(config.identity(), versions())
    ledger.plan_new(list_photos(str(source)), config.shard_size)
    return ledger


def committed(source: Path, output: Path, config: RunConfig = DCP) -> list[dict[str, Any]]:
    ledger = plan(source, output, config)
    process_shard(str(output), config, 1, 0)
    assert ledger.status().complete
    return ledger.read_shard(1, 0).to_pylist()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", 3)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photos" / "bad.png")
    return tmp_path / "photos"


def failing(real: Any, error: BaseException) -> Any:
    """``real``, but for the photo of 40 × 30 pixels."""

    def call(*given: Any, **options: Any) -> Any:
        pixels = next((x for x in given if isinstance(x, np.ndarray)), None)
        if (pixels is not None and pixels.shape[:2] == (30, 40)) or (
            isinstance(given[0], bytes) and len(given[0]) < 500
        ):
            raise error
        return real(*given, **options)

    return call


PLACES = [
    (load, "decode_photo"),
    (process, "view_photograph"),
    (publish, "dark_channel_pixels"),
    (publish, "encode_photo"),
]
ERRORS = [
    TypeError("a tag of a wrong type"), KeyError(7), RecursionError("deep"), MemoryError(), OSError(5, "input/output"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "start"), AssertionError(), SystemError("tile \ud800 outside"),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    ("module", "name", "error"),
    [(*PLACES[i % len(PLACES)], error) for i, error in enumerate(ERRORS)],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_whatever_is_raised_over_one_photo_is_its_row(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: Exception
) -> None:
    monkeypatch.setattr(module, name, failing(getattr(module, name), error))
    config = RunConfig() if name == "view_photograph" else DCP
    rows = committed(photos, tmp_path / "out", config)
    assert {row["key"]: row["status"] for row in rows if row["status"] == "failed"} == {"bad.png": "failed"}
    bad = next(row for row in rows if row["key"] == "bad.png")
    assert bad["error_code"] == ("out-of-memory" if isinstance(error, MemoryError) else "unexpected")
    assert len(bad["error_message"]) > 20


@pytest.mark.long
@pytest.mark.parametrize("error", [StoreUnavailable("down"), Cancelled("stop"), torch.OutOfMemoryError("full")])
def test_what_is_no_photos_fault_stops_the_shard(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(publish, "encode_photo", failing(publish.encode_photo, error))
    plan(photos, tmp_path / "out", DCP)
    with pytest.raises(type(error)):
        process_shard(str(tmp_path / "out"), DCP, 1, 0)


@pytest.mark.long
def test_a_photo_that_the_computation_stumbles_over_fails_alone(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = dehaze.run_dark_channel

    def stumbling(config: RunConfig, pixels: torch.Tensor) -> Any:
        if bool((pixels.mean((2, 3)) - torch.tensor([1.0, 0, 0])).abs().amax(1).min() < 1e-3):
            raise ValueError("no such pixels")
        return real(config, pixels)

    monkeypatch.setattr(dehaze, "run_dark_channel", stumbling)
    rows = committed(photos, tmp_path / "out")
    assert [row["key"] for row in rows if row["status"] == "failed"] == ["bad.png"]
    assert all((tmp_path / "out" / row["output_path"]).exists() for row in rows if row["status"] == "ok")


def test_a_run_that_cannot_work_at_all_fails_no_photo(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: RunConfig, pixels: torch.Tensor) -> Any:
        raise ValueError("the network has no such layer")

    monkeypatch.setattr(dehaze, "run_dark_channel", broken)
    ledger = plan(photos, tmp_path / "out", DCP)
    with pytest.raises(ValueError, match="no such layer"):
        process_shard(str(tmp_path / "out"), DCP, 1, 0)
    assert not ledger.status().complete


@pytest.mark.long
def test_a_photo_that_takes_too_long_fails_and_the_others_do_not_wait(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = load.decode_photo

    def slow(data: bytes, *given: Any) -> Any:
        if len(data) < 500:
            time.sleep(8)
        return real(data, *given)

    monkeypatch.setattr(load, "decode_photo", slow)
    started = time.monotonic()
    rows = committed(photos, tmp_path / "out", RunConfig(dehaze_variant="dcp", photo_timeout=2))
    assert time.monotonic() - started < 8
    assert [(row["key"], row["error_code"]) for row in rows if row["status"] == "failed"] == [
        ("bad.png", "took-too-long")
    ]


def test_within_hands_over_results_and_errors() -> None:
    assert within(5, lambda: 7, "to count") == 7
    with pytest.raises(KeyError):
        within(5, lambda: {}["x"], "to look up")
    with pytest.raises(PhotoError, match=r"more than 0\.05 s to wait.*photo_timeout"):
        within(0.05, lambda: time.sleep(1), "to wait")


def test_the_row_names_what_its_picture_does_not_carry(photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "blue").save(photos / "bad.png", dpi=(300, 300))
    rows = committed(photos, tmp_path / "out", RunConfig(dehaze_variant="dcp", image_format="webp"))
    said = {row["key"]: row["metadata_dropped"] for row in rows}
    assert said.pop("bad.png") == ["Resolution in dots an inch (WEBP holds none)"]
    assert set(map(tuple, said.values())) == {()}
