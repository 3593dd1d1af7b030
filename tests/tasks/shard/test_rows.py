"""Rows as they are committed: no misspelt name becomes a null, no outage becomes a row for good."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fpcore.builtin.demo_photographs import clear_photographs
from tasks.config import RunConfig
from tasks.photos.sources import list_photos
from tasks.shard import publish
from tasks.shard.loaded import Loaded
from tasks.shard.outcome import Columns, Failure
from tasks.shard.process import process_shard
from tasks.shard.publish import told_how_clear
from tasks.shard.rows import ShardOrigin, check_names, row_of, shard_table, timings_of
from tasks.store.errors import StoreUnavailable
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tasks.store.planned import PlannedPhoto, planned_photos
from tasks.store.schema import PLAN, shard_schema
from tests.photographs import write_photos

PHOTO = PlannedPhoto(shard=0, row=0, key="a.jpg", uri="in/a.jpg")


def test_a_misspelt_column_is_refused() -> None:
    with pytest.raises(TypeError, match="promt"):
        Columns(promt="haze")  # type: ignore[call-arg]
    row = row_of(Loaded(PHOTO), RunConfig(), ShardOrigin(1, 0))
    check_names(row, shard_schema())
    row["verdikt"] = row.pop("verdict")
    with pytest.raises(ValueError, match="differ in verdict, verdikt"):
        check_names(row, shard_schema())


def test_a_stage_that_the_schema_does_not_name_is_refused() -> None:
    assert timings_of({"read": 1.0})["read"] == 1.0
    with pytest.raises(ValueError, match="no stage rendering"):
        timings_of({"rendering": 1.0})


def test_planned_photos_are_typed_and_complete() -> None:
    assert [f.name for f in PLAN] == list(PlannedPhoto.__dataclass_fields__)
    table = pa.Table.from_pylist([{"shard": 0, "row": 3, "key": "a", "uri": "b"}], schema=PLAN)
    assert planned_photos(table) == [PlannedPhoto(0, 3, "a", "b")]
    with pytest.raises(TypeError, match="sede"):
        planned_photos(table.append_column("sede", pa.array([1])))


def test_a_failed_photo_has_its_reason_and_no_verdict() -> None:
    item = Loaded(PHOTO, columns=Columns(verdict="cleared", metrics={"fine": 1.0, "none": float("nan")}))
    item.fail(Failure("damaged", "Not a photo."))
    row = shard_table([item], RunConfig(), ShardOrigin(1, 0)).to_pylist()[0]
    assert (row["status"], row["error_code"], row["error_message"]) == ("failed", "damaged", "Not a photo.")
    assert row["verdict"] is None
    assert row["metrics"] == [("fine", 1.0)]


@pytest.mark.long
def test_an_outage_while_measuring_is_tried_again_and_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference folder is away for a moment: the shard fails as a whole, and the next try has the measures."""
    write_photos(tmp_path / "in", 2)
    output, config = str(tmp_path / "out"), RunConfig(dehaze_variant="dcp")
    ledger = Ledger(open_store(output))
    ledger.create_run(config.identity())
    ledger.plan_new(list_photos(str(tmp_path / "in")), config.shard_size)
    shard = ledger.open_shards()[0]
    read = publish.read_under

    def away(*_: object, **__: object) -> bytes:
        raise StoreUnavailable("the server does not answer")

    monkeypatch.setattr(publish, "read_under", away)
    with pytest.raises(StoreUnavailable) as raised:
        process_shard(output, config, *shard, reference=str(tmp_path / "in"))
    assert raised.value.transient
    assert not list(ledger.committed())
    monkeypatch.setattr(publish, "read_under", read)
    assert process_shard(output, config, *shard, reference=str(tmp_path / "in"))["won"]
    store = open_store(output)
    rows = [row for e in store.list("shards/") for row in pq.read_table(io.BytesIO(store.get(e.key))).to_pylist()]
    assert all("psnr_output" in dict(row["metrics"]) for row in rows)


@pytest.mark.long
def test_a_photo_that_is_not_changed_is_the_same_file(tmp_path: Path) -> None:
    """No loss of a second JPEG encoding, no statement of ours; only metadata that is to be left out forces one."""
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112], exif.get_ifd(0x8825)[1] = 6, "N"
    Image.fromarray(next(clear_photographs())[1]).save(tmp_path / "in" / "a.jpg", quality=70, exif=exif)
    original = (tmp_path / "in" / "a.jpg").read_bytes()
    for policy, same in (("keep", True), ("no-location", False)):
        config = RunConfig(strength=0.0, metadata=policy)
        ledger = Ledger(open_store(str(tmp_path / policy)))
        ledger.create_run(config.identity())
        ledger.plan_new(list_photos(str(tmp_path / "in")), 1)
        process_shard(str(tmp_path / policy), config, 1, 0)
        row = ledger.read_shard(1, 0).to_pylist()[0]
        written = ledger.store.get(row["output_path"])
        assert (written == original) is same
        assert row["output_sha256"] == hashlib.sha256(written).hexdigest()
        assert (b"fixpoint" in written.lower()) is not same


def test_how_much_clearer_is_told_only_where_something_veiled_tells_it() -> None:
    noise = np.random.default_rng(0).random((24, 32)).repeat(4, 0).repeat(4, 1)[..., None].repeat(3, -1)
    veiled, dark = ((255 * (noise * 0.2 + base)).astype(np.uint8) for base in (0.6, 0.0))
    told = told_how_clear(Columns(reason="Cleared: haze over 90% of it, densest 0.50."), veiled, veiled)
    assert told.reason == "Cleared: haze over 90% of it, densest 0.50. The veiled part is 1.0 times as clear."
    told = told_how_clear(Columns(reason="No haze was found: mean density 0.00."), dark, dark)
    assert told.reason == "No haze was found: mean density 0.00."
    assert "clearer" not in dict(told.metrics)
