"""``fixpoint evaluate reside`` on free photographs in the shape of RESIDE's pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from tests.photographs import write_photos


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hazy photographs, and the same with the veil taken off again."""
    root = tmp_path_factory.mktemp("pairs")
    (root / "gt").mkdir()
    for key in write_photos(root / "hazy", 2):
        pixels = np.asarray(Image.open(root / "hazy" / key).convert("RGB")).astype(np.float32)
        clear = ((pixels - 80) / 0.65).clip(0, 255).astype(np.uint8)
        Image.fromarray(clear).save(root / "gt" / key)
    return root


def test_table_and_sheet_of_every_side(pairs: Path, prefect_api: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = ["evaluate", "reside", str(pairs), str(out), "--variants", "graded,dcp", "--real", str(pairs / "hazy")]
    done = CliRunner().invoke(app, [*line, "--set", "num_inference_steps=4", "--json"])
    assert done.exit_code == 0, done.output
    rows = {row["run"]: row for row in json.loads(done.stdout.splitlines()[-1])}
    sides = [
        "graded",
        "dcp",
        "graded, clear side",
        "round trip of the clear side",
        "graded, real haze",
        "dcp, real haze",
    ]
    assert list(rows) == sides
    assert all((row["photos"], row["failed"]) == (2, 0) for row in rows.values())
    assert rows["graded"]["psnr_before"] == rows["dcp"]["psnr_before"] > 5
    assert rows["graded, clear side"]["psnr_before"] == 100
    assert rows["round trip of the clear side"]["psnr_round_trip"] > 30
    for run in ("graded, real haze", "dcp, real haze"):
        for measure in ("dark_channel", "contrast", "colourfulness"):
            assert rows[run][f"{measure}_after"] > 0
    assert json.loads((out / "table.json").read_text()) == list(rows.values())
    for name, columns in (("sheet-pairs.jpg", 5), ("sheet-real.jpg", 4)):
        with Image.open(out / name) as sheet:
            assert sheet.width == columns * 192


def test_an_unknown_variant_is_refused_before_anything_is_done(pairs: Path, prefect_api: str, tmp_path: Path) -> None:
    line = ["evaluate", "reside", str(pairs), str(tmp_path / "out"), "--variants", "graded,magic"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 2
    assert "variants.1" in done.output
    assert "prior-weighted" in done.output
    assert not (tmp_path / "out").exists()
