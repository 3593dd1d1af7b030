"""``fixpoint evaluate dehaze`` on free photographs in the shape of RESIDE's pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli.app import app
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
    line = [
        "evaluate",
        "dehaze",
        str(pairs),
        "--output",
        str(out),
        "--real",
        str(pairs / "hazy"),
        "--clear",
        str(pairs / "gt"),
    ]
    done = CliRunner().invoke(app, [*line, "--json"])
    assert done.exit_code == 0, done.output
    rows = {row["run"]: row for row in json.loads(done.stdout.splitlines()[-1])}
    names = ["density", "even-veil", "dcp"]
    sides = [*(f"{n}, {pairs}" for n in names), f"density, clear side of {pairs}", *(f"{n}, real haze" for n in names)]
    assert list(rows) == [*sides, "density, clear photographs"]
    assert all((row["photos"], row["failed"]) == (2, 0) for row in rows.values())
    before = [rows[f"{n}, {pairs}"]["psnr_before"] for n in names]
    assert before[0] == before[1] == before[2] > 5
    assert rows[f"density, {pairs}"]["nfe"] == 6
    assert rows["density, clear photographs"]["least_psnr"] > 25
    for name in names:
        row = rows[f"{name}, real haze"]
        assert row["times_as_clear"] > 0
        assert 0 <= row["cleared"] + row["harmed"] <= 4
    assert pq.read_table(out / "table.parquet").num_rows == len(rows)
    assert json.loads((out / "table.json").read_text()) == list(rows.values())
    for name, columns in (("sheet-pairs-1.jpg", 6), ("sheet-real.jpg", 5)):
        with Image.open(out / name) as sheet:
            assert sheet.width == columns * 192


def test_an_unknown_method_is_refused_before_anything_is_done(pairs: Path, prefect_api: str, tmp_path: Path) -> None:
    line = ["evaluate", "dehaze", str(pairs), "--output", str(tmp_path / "out"), "--methods", "density,magic"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 2
    assert "methods.1" in done.output
    assert "prior-weighted" in done.output
    assert not (tmp_path / "out").exists()
