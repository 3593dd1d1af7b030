"""``fixpoint evaluate restore`` on free photographs: what is damaged and how, the table, the sheets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli.app import app
from flows.evaluate import HEAD, MARGIN, TILE, picture_rows
from tasks.evaluation.restoration import CASES, damage
from tests.photographs import write_photos

COLUMNS = {"colorize": 5, "inpaint": 5, "super-resolution-x2": 5, "super-resolution-x4": 5}


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs in colour."""
    folder = tmp_path_factory.mktemp("clear")
    write_photos(folder, 2)
    return folder


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(float)


def test_damage_is_what_it_is_called_and_the_same_every_time(clear: Path, tmp_path: Path) -> None:
    for again in ("a", "b"):
        damage.fn(str(clear), str(tmp_path / again), CASES, 64, 60)
    made = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.png"))
    assert len(made) == 2 * (1 + 3 + 4 + 3 + 3), "truth, and damaged with baselines for each case"
    assert all((tmp_path / "a" / p).read_bytes() == (tmp_path / "b" / p).read_bytes() for p in made)
    for path in (tmp_path / "a" / "truth").iterdir():
        truth, at = pixels(path), lambda folder, name=path.name: pixels(tmp_path / "a" / folder / name)
        grey = at("colorize/damaged")
        assert np.abs(grey - truth @ np.array([[0.299], [0.587], [0.114]])).max() <= 0.51
        hole = at("inpaint/masks") > 0
        assert 0.03 <= hole.mean() <= 0.17
        for kind in ("damaged", "biharmonic", "smooth fill"):
            assert (at(f"inpaint/{kind}")[~hole] == truth[~hole]).all()
        assert (at("inpaint/damaged")[hole] == 127).all()
        height, width = truth.shape[:2]
        for scale in (2, 4):
            means = truth.reshape(height // scale, scale, width // scale, scale, 3).mean((1, 3))
            assert np.abs(at(f"super-resolution-x{scale}/damaged") - means).max() <= 0.51
            assert at(f"super-resolution-x{scale}/bicubic").shape == truth.shape


@pytest.mark.long
def test_table_and_sheets_of_every_task(clear: Path, prefect_api: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ["num_inference_steps=3", "method=fixed-point", "iterations=2", "noise_level=0.3"]
    line = ["evaluate", "restore", str(clear), "--output", str(out), "--side", "48", "-m", "builtin:haze", "--json"]
    done = CliRunner().invoke(app, [*line, *(word for s in settings for word in ("--set", s))])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout.splitlines()[-1])
    assert rows == json.loads((out / "table.json").read_text())
    assert pq.read_table(out / "table.parquet").num_rows == len(rows) == 3 + 3 + 3 + 3
    assert all(row["photos"] == 2 and row["ssim"] > 0 for row in rows)
    ours = [row for row in rows if row["method"] == "fixed points"]
    assert [(row["task"], row["failed"]) for row in ours] == [(name, 0) for name in COLUMNS]
    assert all(row["worst_consistency_error"] <= 1 and row["nfe"] > 0 for row in ours)
    by_name = {(row["task"], row["method"]): row for row in rows}
    grey, likely = by_name["colorize", "grey"], by_name["colorize", "likely colours"]
    assert likely["worst_consistency_error"] <= 1
    assert likely["colourfulness"] > 1
    assert grey["colourfulness"] < 1 < grey["true_colourfulness"]
    assert by_name["super-resolution-x2", "bicubic"]["psnr"] > by_name["super-resolution-x4", "bicubic"]["psnr"]
    for name, columns in COLUMNS.items():
        with Image.open(out / f"sheet-{name}.jpg") as sheet:
            assert sheet.width == columns * 192


def test_an_unknown_task_is_refused_before_anything_is_done(clear: Path, prefect_api: str, tmp_path: Path) -> None:
    line = ["evaluate", "restore", str(clear), "--output", str(tmp_path / "out"), "--tasks", "colorize,deblur"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 2
    assert "tasks.1" in done.output
    assert not (tmp_path / "out").exists()


def test_a_row_of_a_sheet_is_as_high_as_its_highest_picture() -> None:
    wide, tall = Image.new("RGB", (400, 100), "red"), Image.new("RGB", (100, 400), "blue")
    canvas = picture_rows(["one", "two"], [[wide, wide], [wide, tall]])
    assert canvas.height == HEAD + (47 + MARGIN) + (188 + MARGIN)
    assert canvas.getpixel((5, HEAD + 5)) == (255, 0, 0)
    assert canvas.getpixel((TILE + 5, canvas.height - MARGIN - 5)) == (0, 0, 255)
