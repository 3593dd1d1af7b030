"""The paper's figures by one command, each with its numbers."""

import csv
import io
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli.app import app
from tasks.evaluation.reproduce import FIGURES, PaperFigure, reproduce_figure
from tasks.evaluation.sample_data import write_edits, write_haze

COLUMNS = {
    "fig1": {"step", "iteration", "intra", "inter"},
    "fig6": {"step", "iteration", "intra", "inter"},
    "fig2": {"step", "path", "iteration", "x", "y", "distance"},
}


@pytest.mark.parametrize("what", FIGURES)
@pytest.mark.model
def test_each_figure_is_drawn_with_its_numbers(what: PaperFigure, tmp_path: Path) -> None:
    said: list[str] = []
    written = reproduce_figure(what, str(tmp_path), num_inference_steps=3, photos=1, on_progress=said.append)
    assert written == [f"{what}.png", f"{what}.svg", f"{what}.csv"]
    with Image.open(tmp_path / f"{what}.png") as picture:
        assert min(picture.size) > 400
    rows = list(csv.DictReader(io.StringIO((tmp_path / f"{what}.csv").read_text())))
    assert set(rows[0]) >= COLUMNS[what]
    assert {int(row["step"]) for row in rows} == {0, 1, 2}
    if what != "fig2":
        assert len(rows) == 3 * 10
        assert {row["status"] for row in rows} == {"running", "completed"}
    else:
        last = [float(row["distance"]) for row in rows if row["iteration"] == "21" and row["step"] == "1"]
        assert max(last) < 0.05  # the paths have met
    assert said[0].startswith(f"{what}: 1 photographs")
    assert said[-1].endswith(f"{what}.png")


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of fig1, fig2, fig6"):
        reproduce_figure("fig3", str(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        reproduce_figure("fig1", str(tmp_path), photos=0)
    assert CliRunner().invoke(app, ["reproduce", "table3", str(tmp_path)]).exit_code == 2


@pytest.mark.long
def test_the_sample_data_have_the_benchmarks_layouts(tmp_path: Path) -> None:
    from fpcore.evaluation.pie_bench import read_mapping

    folder = Path(write_edits(tmp_path / "edits", 2))
    samples = read_mapping((folder / "mapping_file.json").read_bytes())
    assert [sample.target_prompt for sample in samples] == ["a photo of a desert"] * 2
    assert all((folder / "annotation_images" / sample.image_path).is_file() for sample in samples)
    hazy, clear = (Path(write_haze(tmp_path / "haze", 2)) / part for part in ("hazy", "gt"))
    assert sorted(p.name for p in hazy.iterdir()) == sorted(p.name for p in clear.iterdir())
    assert len(list(hazy.iterdir())) == 2
