"""The whole way of a photo in a few seconds, for ``make quick``: no server, the shipped model, every room on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.config import RunConfig
from tasks.photos.sources import list_photos
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tasks.store.verify import verify
from tests.photographs import hazy_photographs

if TYPE_CHECKING:
    from fpcore.models.model import Model

pytestmark = [pytest.mark.model, pytest.mark.heart]
CONFIG = RunConfig(shard_size=4)


def open_output(folder: Path) -> Ledger:
    """The ledger of the run ``folder``/in → ``folder``/out, with what is new planned."""
    ledger = Ledger(open_store(str(folder / "out")))
    ledger.create_run(CONFIG.identity())
    ledger.plan_new(list_photos(str(folder / "in")), CONFIG.shard_size)
    return ledger


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hazy photographs and a broken file, dehazed and committed."""
    from tasks.shard.process import process_shard

    folder = tmp_path_factory.mktemp("heart")
    (folder / "in").mkdir()
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a description", 6
    for name in ("china", "rocket"):
        Image.fromarray(hazy_photographs()[name]).save(folder / "in" / f"{name}.jpg", quality=95, exif=exif)
    (folder / "in" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photograph")
    for shard in open_output(folder).open_shards():
        assert process_shard(str(folder / "out"), CONFIG, *shard)["photos"] == 3
    return folder


@pytest.fixture(scope="module")
def rows(output: Path) -> dict[str, dict[str, Any]]:
    """The committed rows by key."""
    ledger = open_output(output)
    return {row["key"]: row for shard in ledger.committed() for row in ledger.check_shard(*shard).to_pylist()}


def test_every_photo_is_one_row_and_the_output_is_whole(output: Path, rows: dict[str, dict[str, Any]]) -> None:
    assert {key: row["status"] for key, row in rows.items()} == {
        "china.jpg": "ok",
        "rocket.jpg": "ok",
        "broken.jpg": "failed",
    }
    assert rows["broken.jpg"]["error_code"]
    assert list(verify(open_output(output))) == []


def test_what_is_done_is_not_done_again(output: Path, rows: dict[str, dict[str, Any]]) -> None:
    ledger = open_output(output)
    assert ledger.open_shards() == []
    assert ledger.plans() == [1]
    (output / "in" / "new.png").write_bytes((output / "in" / "china.jpg").read_bytes())
    try:
        assert [(shard.plan, shard.shard) for shard in open_output(output).open_shards()] == [(2, 0)]
    finally:
        (output / "in" / "new.png").unlink()


def test_the_haze_is_lifted_at_full_resolution_and_the_metadata_kept(
    output: Path, rows: dict[str, dict[str, Any]]
) -> None:
    for name in ("china", "rocket"):
        row = rows[f"{name}.jpg"]
        with Image.open(output / "out" / row["output_path"]) as picture:
            done = np.asarray(picture.convert("RGB"), float)
            assert picture.size == (row["width"], row["height"]) == hazy_photographs()[name].shape[:2]
            assert picture.getexif()[0x010E] == "a description"
            assert picture.getexif().get(0x0112, 1) == 1
        with Image.open(output / "in" / f"{name}.jpg") as picture:
            hazy = np.rot90(np.asarray(picture, float), -1)
        assert row["verdict"] == "cleared"
        assert hazy.mean() - done.mean() > 8
        assert done.std() > 1.1 * hazy.std()
        assert np.corrcoef(hazy.ravel(), done.ravel())[0, 1] > 0.9
        assert row["nfe"] > 0


def test_a_photograph_comes_back_from_its_noise(builtin_model: Callable[[str], Model]) -> None:
    from fpcore import Schedule, Status, invert, method, sample

    model = builtin_model("haze")
    schedule, condition = Schedule.from_scheduler(model.scheduler, 10), model.embed(["haze"])
    small = Image.fromarray(hazy_photographs()["china"]).resize((32, 32), Image.Resampling.BOX)
    z0 = model.encode(torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 127.5 - 1)
    found = invert(model.under(condition), schedule, z0, method("certified"))
    assert found.status == [Status.CONVERGED]
    back = sample(model.under(condition), schedule, found.latents)
    assert float((back - z0).square().mean().sqrt()) < 0.01
    plain = invert(model.under(condition), schedule, z0, method("ddim"))
    off = sample(model.under(condition), schedule, plain.latents)
    assert float((off - z0).square().mean()) > 4 * float((back - z0).square().mean())


def test_an_edit_follows_its_target_and_spares_the_source(tiny_model: Callable[[str], Model]) -> None:
    from fpcore import EditSettings, Schedule, edit, sample

    model = tiny_model("sd1")
    schedule = Schedule.from_scheduler(model.scheduler, 4)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sources = ["a photo of a cat", "a photo of a cat"]
    done = edit(model, schedule, latents, sources, ["a photo of a dog", "a photo of a cat"], EditSettings())
    free = edit(
        model, schedule, latents, sources, ["a photo of a dog"] * 2, EditSettings(cross_replace=0, self_replace=0)
    )
    plain = sample(model.under(model.embed(sources)), schedule, latents)
    torch.testing.assert_close(free.source, done.source)
    torch.testing.assert_close(done.target[1], done.source[1])
    moved = [float((result.target - result.source)[0].norm()) for result in (done, free)]
    assert 0 < moved[0] < moved[1]
    assert plain.isfinite().all()
