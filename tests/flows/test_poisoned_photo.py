"""A photo for which the network returns values that are not numbers, in a real run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fpcore.models.model import Model
from tests.chaos.check_output import check
from tests.flows.test_main_job import fixpoint, rows
from tests.photographs import write_photos

FAST = ["--method", "words-by-place", "--steps", "4", "--batch-size", "4", "--json"]


def test_only_the_poisoned_photo_fails(tmp_path: Path, prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, clean, dirty = tmp_path / "photos", tmp_path / "clean", tmp_path / "dirty"
    write_photos(photos, 3)
    bright = np.full((90, 120, 3), 225, np.uint8) + (np.arange(120) % 25).astype(np.uint8)[None, :, None]
    Image.fromarray(bright).save(photos / "bright.png")
    assert fixpoint("dehaze", str(photos), str(clean), *FAST)[0] == 0

    predict = Model.predict

    def poisoned(self: Model, z: Tensor, t: Tensor, condition: object) -> Tensor:
        output = predict(self, z, t, condition)  # type: ignore[arg-type]
        bad = (z.std((1, 2, 3)) < 0.1) & (t < 200)  # the nearly even one
        return torch.where(bad.view(-1, 1, 1, 1), torch.nan, output)

    monkeypatch.setattr(Model, "predict", poisoned)
    code, summary = fixpoint("dehaze", str(photos), str(dirty), "--max-failed", "0.5", *FAST)
    assert code == 0
    assert (summary["ok"], summary["failed"]) == (3, 1)
    by_key = {row["key"]: row for row in rows(dirty)}
    assert by_key["bright.png"]["error_code"] == "non-finite"
    assert not (dirty / "images" / "bright.png").exists()
    for row in rows(clean):
        if row["key"] != "bright.png":
            assert by_key[row["key"]]["status"] == "ok"
            name = row["output_path"]
            there, alone = (np.asarray(Image.open(out / name)).astype(int) for out in (dirty, clean))
            assert abs(there - alone).max() <= 1  # the poisoned row leaves the batch early: sums of another order
    assert check(str(dirty)) == []
