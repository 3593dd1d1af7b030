"""Pictures inside Parquet tables, all the way: listed, planned, dehazed, and nothing left to do the next night."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.config import RunConfig
from tasks.photos.sources import list_photos
from tasks.shard.process import process_shard, versions
from tasks.store.access import Access
from tasks.store.errors import NotFound
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tasks.store.schema import shard_schema
from tests.servers import S3Server

OWN = shard_schema().field("output").type
"""The type of pictures in Fixpoint's own rows."""


def picture(shade: int, kind: str = "JPEG") -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (64, 48), (shade, 120, 160)).save(sink, kind)
    return sink.getvalue()


def write_tables(folder: Path) -> None:
    folder.mkdir()
    good = [{"bytes": picture(10 * i), "path": f"{i}.jpg"} for i in range(5)]
    odd = [
        {"bytes": picture(90, "PNG"), "path": None},
        {"bytes": b"no picture", "path": "b.jpg"},
        {"bytes": b"", "path": None},
    ]
    pq.write_table(pa.table({"image": pa.array(good, OWN)}), folder / "train-0.parquet", row_group_size=2)
    pq.write_table(pa.table({"image": pa.array(odd, OWN)}), folder / "train-1.parquet")


def run(source: str, output: Path) -> Ledger:
    config = RunConfig(dehaze_variant="dcp", shard_size=3)
    ledger = Ledger(open_store(str(output)))
    ledger.create_run(config.identity(), versions())
    ledger.plan_new(list_photos(source), 3)
    for shard in ledger.open_shards():
        process_shard(str(output), config, *shard)
    return ledger


@pytest.mark.long
@pytest.mark.parametrize("source", ["data/*.parquet", "data.parquet"])
def test_each_cell_has_one_row_and_a_picture_of_its_own(tmp_path: Path, source: str) -> None:
    write_tables(tmp_path / source.partition("/")[0])
    ledger = run(str(tmp_path / source), tmp_path / "out")
    rows = {row["key"]: row for shard in ledger.committed() for row in ledger.read_shard(*shard).to_pylist()}
    assert {key: row["error_code"] for key, row in rows.items()} == {
        **{f"{i}.jpg": None for i in range(5)},
        "train-1/000000": None,
        "b.jpg": "not-an-image",
        "train-1/000002": "empty-file",
    }
    assert rows["3.jpg"]["source_uri"].endswith("/train-0.parquet#image/3")
    assert rows["train-1/000000"]["output_path"] == "images/train-1/000000.png"
    shades = [Image.open(tmp_path / "out" / "images" / f"{i}.jpg").getpixel((5, 5))[0] for i in range(5)]
    assert shades == sorted(set(shades))
    assert ledger.plan_new(list_photos(str(tmp_path / source)), 3) == []


def test_tables_in_a_bucket(tmp_path: Path, moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    write_tables(tmp_path / "data")
    bucket = open_store(moto.fresh_url())
    for name in ("train-0.parquet", "train-1.parquet"):
        bucket.put(f"data/{name}", (tmp_path / "data" / name).read_bytes())
    ledger = run(f"{bucket.location.uri}/data/*.parquet", tmp_path / "out")
    rows = [row for shard in ledger.committed() for row in ledger.read_shard(*shard).to_pylist()]
    assert sorted(row["status"] for row in rows) == ["failed"] * 2 + ["ok"] * 6
    assert all(row["source_uri"].startswith(f"parquet+{bucket.location.uri}/data/train-") for row in rows)


def test_a_folder_of_tables_alone_says_how_to_name_them(tmp_path: Path) -> None:
    write_tables(tmp_path / "data")
    with pytest.raises(NotFound, match=r"data/\*\.parquet"):
        list(list_photos(str(tmp_path / "data")))


def test_our_own_shards_name_their_photos_as_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(picture(40))
    ledger = run(str(tmp_path / "in"), tmp_path / "out")
    (shard,) = ledger.committed()
    (entry,) = list_photos(str(tmp_path / "out" / shard.key), access=Access.to(str(tmp_path)))
    assert entry["uri"] == (tmp_path / "in" / "a.jpg").as_uri()
