"""``fixpoint evaluate pie-bench`` on a PIE-Bench-shaped sample of free pictures, with a small Stable Diffusion."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from flows.cli.app import app
from fpcore.evaluation.perceptual import squeezenet_features
from fpcore.evaluation.pie_bench import METRICS, PUBLISHED
from tests.pie_bench_sample import ENTRIES, write_sample
from tests.tiny_models import tiny_sd1

METHODS = ("ddim", "intra-path", "inter-path", "certified")
FAST = ["--steps", "3", "--set", "tolerance=0.05", "--set", "iterations=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("pie") / "bench")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd1(tmp_path_factory.mktemp("models") / "sd1")


def evaluate(data: Path, output: Path, model: Path, *more: str) -> list[dict]:
    result = CliRunner().invoke(app, ["evaluate", "pie-bench", str(data), str(output), "-m", str(model), *FAST, *more])
    assert result.exit_code == 0, result.output + result.stderr
    return json.loads((output / "table.json").read_text())


@pytest.fixture(scope="module")
def output(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Path:
    folder = tmp_path_factory.mktemp("out")
    evaluate(data, folder, model)
    return folder


def test_every_method_has_editing_and_reconstruction_in_all_and_by_type(output: Path) -> None:
    table = json.loads((output / "table.json").read_text())
    measured = [row for row in table if not row["published"]]
    groups = {"all", "change object", "add object", "delete object", "change background"}
    for kind in ("editing", "reconstruction"):
        assert {(r["method"], r["type"]) for r in measured if r["kind"] == kind} == {
            (method, group) for method in METHODS for group in groups
        }
    assert {r["pictures"] for r in measured if r["type"] == "all"} == {len(ENTRIES)}
    assert {r["pictures"] for r in measured if r["type"] != "all"} == {1}
    for row in measured:
        if row["kind"] == "reconstruction":
            assert row["psnr_unedit_part"]["value"] > 0


def test_published_figures_are_marked_and_missing_weights_are_no_zeros(output: Path) -> None:
    table = json.loads((output / "table.json").read_text())
    assert [r["method"] for r in table if r["published"]] == [row.method for row in PUBLISHED]
    page = (output / "table.md").read_text()
    assert page.count("(published)") == len(PUBLISHED)
    assert "| DDIM (published) |  | 700 | 69.40 | 17.87 | 208.80 | unavailable | 71.10 |" in page
    for name in METRICS:
        if name.startswith(("structure", "lpips", "clip")):
            mine = [r[name] for r in table if not r["published"] and r["type"] == "all"]
            assert {m["value"] for m in mine} == {None}
            assert all("given" in m["reason"] for m in mine)
    assert "LPIPS ×10³: no SqueezeNet 1.1 weights were given" in page
    assert "P2P + optimised (inter)" in page


def test_rows_equal_an_independent_computation(data: Path, output: Path) -> None:
    """PSNR and MSE of every picture, from the files alone."""
    mapping = json.loads((data / "mapping_file.json").read_text())
    for method in METHODS:
        run = output / f"{method}+none"
        rows = pq.read_table(run / "pie-bench.parquet").to_pylist()
        assert len(rows) == 2 * len(ENTRIES)
        (shard,) = (run / "shards").glob("*.parquet")
        outputs = {r["key"]: r["output"]["bytes"] for r in pq.read_table(shard, columns=["key", "output"]).to_pylist()}
        for row in (r for r in rows if r["kind"] == "editing"):
            entry = mapping[row["id"]]
            keep = np.ones(512 * 512)
            for start, length in zip(entry["mask"][::2], entry["mask"][1::2], strict=True):
                keep[start : start + length] = 0
            keep = keep.reshape(512, 512)
            keep[0] = keep[-1] = keep[:, 0] = keep[:, -1] = 0
            photo = Image.open(data / "annotation_images" / row["key"]).convert("RGB")
            source = enlarged(np.asarray(photo.resize((64, 64), Image.Resampling.BOX)) / 255)
            edited = enlarged(np.asarray(Image.open(io.BytesIO(outputs[row["key"]]))) / 255)
            buffer = io.BytesIO()
            Image.fromarray((edited * 255).round().astype(np.uint8)).save(buffer, "JPEG")
            jpeg = np.asarray(Image.open(buffer)) / 255
            mse = ((keep[..., None] * (source - jpeg)) ** 2).mean()
            if keep.any():
                assert row["mse_unedit_part"] == pytest.approx(1e4 * mse, rel=2e-2)
                assert row["psnr_unedit_part"] == pytest.approx(-10 * math.log10(mse), abs=0.1)
            else:
                assert math.isnan(row["mse_unedit_part"]), "the mask covers everything"
            assert row["structure_distance"] is None


def enlarged(picture: np.ndarray) -> np.ndarray:
    """(h, w, 3) to 512 × 512."""
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None]
    big = torch.nn.functional.interpolate(tensor, (512, 512), mode="bicubic", align_corners=False)
    return big[0].clamp(0, 1).permute(1, 2, 0).numpy()


def test_the_protocol_is_in_the_runs(output: Path) -> None:
    """Seed 1234 for every image, no mask steers an edit, PIE-Bench's shares, and w 7.5."""
    configuration = json.loads((output / "ddim+none" / "run.json").read_text())["configuration"]
    assert configuration["masks"] is False
    assert (configuration["method"], configuration["guidance"], configuration["guidance_scale"]) == (
        "ddim",
        "none",
        7.5,
    )
    (shard,) = (output / "ddim+none" / "shards").glob("*.parquet")
    rows = {r["key"]: r for r in pq.read_table(shard, columns=["key", "seed", "edit_settings"]).to_pylist()}
    assert {r["seed"] for r in rows.values()} == {1234}
    settings = json.loads(rows["1_type/000000000000.jpg"]["edit_settings"])
    assert settings["blended_word"] == "cat dog"
    assert [settings[n] for n in ("cross_replace", "self_replace", "blend_start", "blend_threshold", "amplify")] == [
        0.4, 0.6, 0.2, 0.3, 2.0,
    ]  # fmt: skip


def test_sheet_shows_source_and_each_method(output: Path) -> None:
    with Image.open(output / "sheet.png") as sheet:
        assert sheet.width == 5 * 164 - 4
        assert sheet.height == 20 + len(ENTRIES) * 198
        assert len(sheet.convert("RGB").getcolors(1 << 24) or []) > 1000


def test_weights_added_later_are_measured_without_editing_again(
    data: Path, output: Path, model: Path, tmp_path: Path, prefect_api: str
) -> None:
    torch.manual_seed(0)
    weights = {f"features.{n}": t for n, t in squeezenet_features().state_dict().items()}
    save_file(weights, tmp_path / "squeezenet.safetensors")
    shards = {p: p.stat().st_mtime_ns for p in output.rglob("shards/*.parquet")}
    table = evaluate(data, output, model, "--methods", "ddim", "--lpips", str(tmp_path / "squeezenet.safetensors"))
    assert {p: p.stat().st_mtime_ns for p in output.rglob("shards/*.parquet")} == shards
    for row in table:
        if not row["published"] and row["type"] in ("all", "change object"):
            assert row["lpips_unedit_part"]["value"] > 0


def test_what_is_no_benchmark_is_refused(tmp_path: Path, model: Path, prefect_api: str) -> None:
    result = CliRunner().invoke(app, ["evaluate", "pie-bench", str(tmp_path), str(tmp_path / "out"), "-m", str(model)])
    assert result.exit_code == 2
    assert "mapping_file.json" in " ".join(result.stderr.split())
    wrong = ["--guidance", "magic"]
    result = CliRunner().invoke(app, ["evaluate", "pie-bench", str(tmp_path), str(tmp_path / "out"), *wrong])
    assert result.exit_code == 2
    assert "guidance" in result.stderr
