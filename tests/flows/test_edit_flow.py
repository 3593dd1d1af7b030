"""``fixpoint edit`` by manifest: every photo its own prompts, words, mask, seed and shares; and its attention in pictures."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli.app import app
from tests.photographs import write_photos
from tests.pie_bench_sample import box_runs
from tests.tiny_models import tiny_sd1

FAST = ["--steps", "3", "--set", "batch_size=4", "--json", "--max-failed", "1"]
CAT = {"prompt": "a photo of a cat", "target_prompt": "a photo of a dog"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_sd1(tmp_path_factory.mktemp("models") / "sd1"))


def edit(source: Path, output: Path, model: str, *more: str) -> dict[str, dict]:
    result = CliRunner().invoke(app, ["edit", str(source), str(output), "-m", model, *FAST, *more])
    assert result.exit_code == 0, result.output + result.stderr
    tables = [pq.read_table(p).drop(["latent"]) for p in sorted((output / "shards").glob("*.parquet"))]
    return {row["key"]: row for table in tables for row in table.to_pylist()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, a mask as a picture, and a manifest with a line of every kind."""
    root = tmp_path_factory.mktemp("photos")
    write_photos(root, 6)
    keys = sorted(p.name for p in root.glob("*.png"))
    left = np.zeros((40, 60), np.uint8)
    left[:, :30] = 255
    Image.fromarray(left).save(root / "left.png.mask.png")
    own = {"cross_replace": 0.9, "self_replace": 0, "blend_threshold": 0.5, "reweight": {"photo": 2}}
    lines = [
        {"path": keys[0], **CAT, "seed": 7, "blended_word": "cat dog", **own},
        {"path": keys[1], **CAT, "mask": "left.png.mask.png"},
        {"path": keys[2], **CAT, "mask": box_runs((0, 0, 0.5, 1))},
        {"path": keys[3], **CAT, "blended_word": "cat ocean"},
        {"path": keys[4], "prompt": "a photo of a cat"},
        {"path": keys[5], **CAT},
    ]
    (root / "edits.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


@pytest.fixture(scope="module")
def rows(folder: Path, model: str, tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> dict[str, dict]:
    output = tmp_path_factory.mktemp("edited")
    found = edit(folder / "edits.jsonl", output, model, "--attention-maps", "--self-replace", "0.5")
    return {"": {"output": output}, **found}


def picture(row: dict, column: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row[column]["bytes"]))).astype(float)


def test_each_photo_is_edited_as_its_line_says(rows: dict[str, dict]) -> None:
    first, *_, last = (rows[key] for key in sorted(rows)[1:])
    assert first["status"] == "ok"
    assert first["seed"] == 7
    settings, others = json.loads(first["edit_settings"]), json.loads(last["edit_settings"])
    assert (settings["cross_replace"], settings["self_replace"], settings["blend_threshold"]) == (0.9, 0, 0.5)
    assert settings["reweight"] == [["photo", 2]]
    assert settings["blended_word"] == "cat dog"
    assert settings["guidance"] == others["guidance"] == "none"
    assert (others["cross_replace"], others["self_replace"]) == (0.4, 0.5), "the run's, where a line says nothing"
    assert others["blended_word"] is None


def test_photos_that_cannot_be_edited_are_rows_that_say_why(rows: dict[str, dict]) -> None:
    failed = {key: row for key, row in rows.items() if row.get("status") == "failed"}
    keys = sorted(rows)[1:]
    assert set(failed) == {keys[3], keys[4]}
    assert failed[keys[3]]["error_code"] == failed[keys[4]]["error_code"] == "unfit-prompts"
    assert "'ocean' is not in the prompt 'a photo of a dog'" in failed[keys[3]]["error_message"]
    assert "give --target" in failed[keys[4]]["error_message"]


@pytest.mark.parametrize("which", [1, 2])
def test_masks_as_pictures_and_as_runs_bound_the_change(rows: dict[str, dict], which: int) -> None:
    """Left half may change. The VAE spreads a little of it, so columns near the edge are not judged."""
    ordered = [rows[key] for key in sorted(rows)[1:]]

    def right_to_left(row: dict) -> float:
        change = np.abs(picture(row, "output") - picture(row, "reconstruction")).mean((0, 2))
        return change[-12:].mean() / change[:20].mean()

    assert right_to_left(ordered[which]) < 0.1
    assert right_to_left(ordered[5]) > 0.3, "without a mask all of the photo changes"


def test_one_mask_for_the_whole_run(folder: Path, model: str, tmp_path: Path, prefect_api: str) -> None:
    words = ["--prompt", CAT["prompt"], "--target", CAT["target_prompt"], "--mask", str(folder / "left.png.mask.png")]
    (row,) = edit(sorted(folder.glob("0*.png"))[5], tmp_path / "out", model, *words).values()
    change = np.abs(picture(row, "output") - picture(row, "reconstruction")).mean((0, 2))
    assert change[-12:].mean() < 0.2 * change[:20].mean(), "without a mask it is more than 0.3 of it"


def test_rows_hold_what_the_edit_started_from(rows: dict[str, dict]) -> None:
    for row in list(rows.values())[1:]:
        if row["status"] == "ok":
            assert picture(row, "reconstruction").shape == picture(row, "output").shape
            assert dict(row["metrics"])["psnr_reconstruction"] > 0


def test_attention_maps_become_pictures(rows: dict[str, dict], tmp_path: Path) -> None:
    """A row a prompt, a labelled tile a word: two prompts of five words."""
    result = CliRunner().invoke(app, ["attention", str(rows[""]["output"]), str(tmp_path / "maps")])
    assert result.exit_code == 0, result.output + result.stderr
    files = sorted((tmp_path / "maps").glob("*.png"))
    assert [f.name for f in files] == [key for key in sorted(rows)[1:] if rows[key]["status"] == "ok"]
    with Image.open(files[0]) as sheet:
        assert sheet.size == (5 * 128, 2 * (128 + 18))
        tiles = np.asarray(sheet)[18:144]
        assert all(tiles[:, 128 * n : 128 * n + 126].std() > 5 for n in range(5)), "every word has a map"


def test_without_maps_the_command_says_how_to_get_them(
    folder: Path, model: str, tmp_path: Path, prefect_api: str
) -> None:
    one = sorted(folder.glob("0*.png"))[0]
    words = [
        "--prompt",
        "a photo of a cat",
        "--target",
        "a photo of a dog",
        "--blend",
        "cat dog",
        "--reweight",
        "dog=3",
    ]
    (row,) = edit(one, tmp_path / "out", model, *words, "--seed", "5", "--tokens", "replace").values()
    settings = json.loads(row["edit_settings"])
    assert (settings["tokens"], settings["reweight"], settings["blended_word"]) == ("replace", [["dog", 3]], "cat dog")
    result = CliRunner().invoke(app, ["attention", str(tmp_path / "out"), str(tmp_path / "maps")])
    assert result.exit_code == 2
    assert "--attention-maps" in result.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"cross_replace": 2}, "row 1: cross_replace is a share"),
        ({"reweight": "snow"}, "row 1: reweight takes words and weights"),
        ({"blended_word": "cat"}, "row 1: blended_word is a word of the source prompt and a word"),
        ({"mask": [1]}, "row 1: column mask: a mask is pairs of start and length"),
        ({"mask": "edits.jsonl"}, "row 1: column mask: This is no picture file"),
        ({"tokens": "swap"}, "tokens one of refine, replace, remove"),
    ],
)
def test_lines_that_cannot_be_are_named_before_any_work(
    line: dict, words: str, folder: Path, model: str, tmp_path: Path, prefect_api: str
) -> None:
    (folder / "wrong.jsonl").write_text(json.dumps({"path": "a.png", **CAT, **line}))
    result = CliRunner().invoke(app, ["edit", str(folder / "wrong.jsonl"), str(tmp_path / "out"), "-m", model, *FAST])
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
