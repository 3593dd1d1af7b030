"""The convergence analysis as users run it, on the built-in model: two photographs, few steps."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.evaluation.convergence import analyze
from tests.photographs import write_photos

pytestmark = pytest.mark.model

FIGURES = {"contraction", "paths", "curves-first-steps", "curves-all-steps", "sensitivity"}


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], Path]:
    folder = tmp_path_factory.mktemp("analysis")
    write_photos(folder / "photos", 1)
    (folder / "photos" / "broken.jpg").write_bytes(b"no photograph")
    found = analyze(str(folder / "photos"), str(folder / "out"), num_inference_steps=3, photos=2, seed=1)
    return found, folder / "out"


def test_everything_is_written(analysed: tuple[dict[str, object], Path]) -> None:
    found, output = analysed
    drawn = {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
    assert {path.name for path in output.iterdir()} == drawn | {"analysis.parquet"}
    assert found["photos"] == 1  # the broken one is skipped
    for path in output.glob("*.svg"):
        text = path.read_text()
        assert text.startswith("<?xml")
        assert len(text) > 5000
    for path in output.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_table_answers_questions(analysed: tuple[dict[str, object], Path]) -> None:
    found, output = analysed
    table = pq.read_table(output / "analysis.parquet")
    assert table.num_rows == found["rows"]
    rows = table.to_pylist()
    assert {row["analysis"] for row in rows} == {"contraction", "paths", "curves", "sensitivity"}
    curves = [row for row in rows if row["analysis"] == "curves"]
    assert len(curves) == 3 * 10
    assert all(row["inter"] > 0 and row["intra"] >= 0 for row in curves)
    contraction = [row for row in rows if row["analysis"] == "contraction"]
    assert len(contraction) == 3 * 3
    assert all(0 < row["ratio"] < 3 and 0 < row["rate"] < 1 for row in contraction)
    settings = {(row["setting"], row["value"]) for row in rows if row["analysis"] == "sensitivity"}
    assert {("guidance", "w = 7.5"), ("spacing", "trailing"), ("noise schedule", "cosine"), ("steps", "6")} <= settings
    assert {row["photo"] for row in rows} == {"000-astronaut.png"}


def test_no_photograph_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photograph")
    with pytest.raises(ValueError, match="no photograph could be read"):
        analyze(str(tmp_path), str(tmp_path / "out"), num_inference_steps=3)
    with pytest.raises(ValueError, match="at least 1"):
        analyze(str(tmp_path), str(tmp_path / "out"), photos=0)
