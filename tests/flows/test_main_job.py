"""The main job from the command line: folder in, pictures, shards and report out."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli.app import app
from tests.chaos.check_output import check
from tests.photographs import hazy_photographs, write_photos


def fixpoint(*arguments: str) -> tuple[int, dict]:
    """Run the command in this process: exit code and its JSON."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    return result.exit_code, json.loads(lines[-1]) if lines else {}


def rows(output: Path) -> list[dict]:
    """Every committed row, without the latents."""
    tables = [pq.read_table(p) for p in sorted((output / "shards").glob("*.parquet"))]
    tables = [table.select([name for name in table.column_names if name != "latent"]) for table in tables]
    return [row for table in tables for row in table.to_pylist()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good photos of many kinds and bad files, with awkward names."""
    root = tmp_path_factory.mktemp("photos")
    hazy = hazy_photographs()
    Image.fromarray(hazy["china"]).save(root / "china.jpg", quality=95)
    (root / "Reise nach Zürich").mkdir()
    Image.fromarray(hazy["flower"]).save(root / "Reise nach Zürich" / "im Nebel 1.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(hazy["rocket"]).save(root / "rotated.jpg", exif=exif, quality=95)
    Image.fromarray(hazy["coffee"]).convert("CMYK").save(root / "cmyk.jpg", quality=95)
    Image.fromarray(hazy["chelsea"][..., 0].astype(np.uint16) * 257).save(root / "sixteen.png")
    whole = (root / "china.jpg").read_bytes()
    (root / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "text.jpg").write_text("this is no photograph")
    (root / "empty.jpg").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def output(folder: Path, tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Path:
    """The folder, dehazed."""
    out = tmp_path_factory.mktemp("out")
    code, summary = fixpoint("dehaze", str(folder), str(out), "--max-failed", "0.5", "--json")
    assert code == 0
    assert (summary["ok"], summary["failed"]) == (5, 3)
    return out


def test_every_photo_is_one_row_and_good_ones_are_pictures_of_the_same_name_and_size(
    folder: Path, output: Path
) -> None:
    by_key = {row["key"]: row for row in rows(output)}
    assert set(by_key) == {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    sizes = {"china.jpg": hazy_photographs()["china"].shape, "cmyk.jpg": hazy_photographs()["coffee"].shape}
    for key in ("china.jpg", "Reise nach Zürich/im Nebel 1.jpg", "rotated.jpg", "cmyk.jpg", "sixteen.png"):
        row = by_key[key]
        assert row["status"] == "ok", row["error_message"]
        assert row["output_path"] == f"images/{key}"
        with Image.open(output / row["output_path"]) as picture:
            assert picture.size == (row["width"], row["height"])
            assert picture.getexif().get(0x0112, 1) == 1
        if key in sizes:
            assert (row["height"], row["width"]) == sizes[key][:2]
        assert row["nfe"] > 0
        assert row["output"]["bytes"][:4] == b"\x89PNG"
        assert row["verdict"] in {"cleared", "gently", "unchanged"}
    turned = by_key["rotated.jpg"]
    assert (turned["width"], turned["height"]) == hazy_photographs()["rocket"].shape[:2]


def test_bad_files_are_rows_that_say_why(output: Path) -> None:
    codes = {row["key"]: row["error_code"] for row in rows(output) if row["status"] == "failed"}
    assert codes == {"truncated.jpg": "truncated", "text.jpg": "not-an-image", "empty.jpg": "empty-file"}
    assert all(row["error_message"].endswith(".") for row in rows(output) if row["status"] == "failed")


def test_bad_neighbours_change_nothing(folder: Path, output: Path, tmp_path: Path, prefect_api: str) -> None:
    alone = tmp_path / "good"
    alone.mkdir()
    for name in ("china.jpg", "rotated.jpg", "cmyk.jpg", "sixteen.png"):
        (alone / name).write_bytes((folder / name).read_bytes())
    (alone / "Reise nach Zürich").mkdir()
    name = "Reise nach Zürich/im Nebel 1.jpg"
    (alone / name).write_bytes((folder / name).read_bytes())
    fixpoint("dehaze", str(alone), str(tmp_path / "out"), "--json")
    with_neighbours = {r["key"]: r["output_sha256"] for r in rows(output) if r["status"] == "ok"}
    assert {r["key"]: r["output_sha256"] for r in rows(tmp_path / "out")} == with_neighbours


def test_the_ledger_is_whole_and_an_independent_checker_agrees(output: Path) -> None:
    assert fixpoint("verify", str(output))[0] == 0
    assert fixpoint("status", str(output), "--json")[1]["complete"]
    assert check(str(output)) == []


def test_report_shows_pictures_and_curves(output: Path) -> None:
    page = (output / "report" / "index.html").read_text()
    assert page.count("data:image/jpeg") >= 2
    assert "<svg" in page
    assert "truncated" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_second_run_does_nothing(folder: Path, output: Path, prefect_api: str) -> None:
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}
    code, summary = fixpoint("dehaze", str(folder), str(output), "--max-failed", "0.5", "--json")
    assert code == 0
    assert summary["processed"] == 0
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()} == before


def test_new_photos_become_a_second_plan(folder: Path, tmp_path: Path, prefect_api: str) -> None:
    source = tmp_path / "in"
    write_photos(source, 2)
    fixpoint("dehaze", str(source), str(tmp_path / "out"), "--json")
    keys = write_photos(source, 4)
    code, summary = fixpoint("dehaze", str(source), str(tmp_path / "out"), "--json")
    assert (code, summary["processed"], summary["plans"]) == (0, 2, 2)
    assert sorted(r["key"] for r in rows(tmp_path / "out")) == keys


def test_another_configuration_is_refused_with_the_difference_named(
    folder: Path, output: Path, prefect_api: str
) -> None:
    result = CliRunner().invoke(app, ["dehaze", str(folder), str(output), "--strength", "0.9", "--json"])
    assert result.exit_code == 2
    assert "strength" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dehaze", "/no/such/folder", "{out}"], "does not exist"),
        (["dehaze", "{source}", "{out}", "--steps", "0"], "num_inference_steps"),
        (["dehaze", "{source}", "{out}", "--set", "colour=blue"], "colour"),
        (["dehaze", "{source}", "{out}", "--method", "regenerate", "-m", "builtin:nothing"], "no builtin:nothing"),
        (["dehaze", "{source}", "{out}", "--method", "magic"], "prior-weighted"),
        (["dehaze", "{source}", "{out}", "--inversion", "magic"], "inter-path"),
    ],
)
def test_mistakes_get_a_sentence_and_exit_code_2(
    arguments: list[str], words: str, folder: Path, tmp_path: Path, prefect_api: str
) -> None:
    filled = [a.format(source=folder, out=tmp_path / "out") for a in arguments]
    result = CliRunner().invoke(app, filled)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.split())


def test_too_many_failures_exit_4_after_everything_is_done(folder: Path, tmp_path: Path, prefect_api: str) -> None:
    result = CliRunner().invoke(app, ["dehaze", str(folder), str(tmp_path / "out"), "--json"])
    assert result.exit_code == 4
    assert len(rows(tmp_path / "out")) == 8
