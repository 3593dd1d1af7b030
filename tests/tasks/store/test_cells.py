"""Pictures inside Parquet tables: addressed, read one row group at a time, refused where they cannot be meant."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.store import cells
from tasks.store.errors import Corrupt, InvalidLocation, NotFound, StoreUnavailable, TooLarge
from tasks.store.objects import Store, open_store, read_uri
from tasks.store.planned import PlannedPhoto
from tasks.store.uris import Address, Cell, parse
from tasks.store.versions import is_served, read_planned
from tests.servers import S3Server

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(pictures: list[bytes | None], kind: str = "struct", rows: int = 4) -> bytes:
    """A Parquet file with a column ``image``, ``rows`` to a row group, between two others."""
    column: dict[str, Any] = {
        "struct": lambda: pa.array([{"bytes": one, "path": None} for one in pictures], PICTURE),
        "binary": lambda: pa.array(pictures, pa.binary()),
        "large": lambda: pa.array(pictures, pa.large_binary()),
    }
    sink = io.BytesIO()
    numbers = pa.array(range(len(pictures)))
    pq.write_table(pa.table({"a": numbers, "image": column[kind](), "z": numbers}), sink, row_group_size=rows)
    return sink.getvalue()


PICTURES: list[bytes | None] = [f"picture {i}".encode() * 50 for i in range(11)]


@given(
    path=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
    column=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    row=st.integers(0, 10**9),
    scheme=st.sampled_from(["s3", "gs", "az", "file"]),
)
def test_an_address_of_a_cell_comes_back_as_it_went(path: str, column: str, row: int, scheme: str) -> None:
    file = Address("file", "", str(Path("/" + path))) if scheme == "file" else Address(scheme, "bucket", path)
    address = Address(file.scheme, file.bucket, file.path, Cell(column, row))
    assert parse(address.uri) == address
    assert parse(address.uri).file == file


@pytest.mark.parametrize(
    "uri",
    ["parquet+s3://b/t.parquet", "parquet+s3://b/t.parquet#image", "parquet+s3://b/t.parquet#image/x", "parquet+://#a/1",
     "parquet+https://h/t.parquet#image/1", "parquet+parquet+s3://b/t#image/1#image/1",
     "parquet+s3://b/t.parquet#image/-1", "parquet+s3://b/t.parquet#/1", "parquet+ftp://b/t.parquet#image/1"],
)  # fmt: skip
def test_addresses_that_name_no_cell_are_refused(uri: str) -> None:
    with pytest.raises(InvalidLocation):
        parse(uri)


def write(folder: Path, data: bytes, name: str = "a #1.parquet") -> Address:
    (folder / name).write_bytes(data)
    return parse(str(folder / name))


def cell(file: Address, row: int, column: str = "image") -> str:
    return Address(file.scheme, file.bucket, file.path, Cell(column, row)).uri


@pytest.mark.parametrize("kind", ["struct", "binary", "large"])
def test_each_row_is_its_own_picture_in_any_order(tmp_path: Path, kind: str) -> None:
    file = write(tmp_path, table(PICTURES, kind))
    for row in (0, 10, 3, 4, 9, 1, 2, 5, 6, 7, 8):
        assert read_uri(cell(file, row)) == PICTURES[row]


def test_a_shard_of_following_rows_reads_each_row_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, groups = write(tmp_path, table(PICTURES)), list[int]()
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda f, n, **k: groups.append(n) or read(f, n, **k))
    for row in range(11):
        read_uri(cell(file, row))
    assert groups == [0, 1, 2]


def test_a_bucket_gives_the_row_group_and_not_the_table(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    url = moto.fresh_url()
    large: list[bytes | None] = [random.Random(i).randbytes(40_000) for i in range(20)]
    data = table(large, rows=2)
    open_store(url).put("t.parquet", data)
    asked, get_range = list[int](), Store.get_range

    def counted(store: Store, key: str, start: int, size: int) -> bytes:
        asked.append(size)
        return get_range(store, key, start, size)

    monkeypatch.setattr(Store, "get_range", counted)
    assert read_uri(cell(parse(f"{url}/t.parquet"), 7)) == large[7]
    assert sum(asked) < len(data) / 2


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [(11, "image", "no picture in row 12"), (0, "none", "column none"), (0, "a", "column a"), (2, "image", "row 3")],
)
def test_cells_without_a_picture_are_not_found(tmp_path: Path, row: int, column: str, words: str) -> None:
    file = write(tmp_path, table([*PICTURES[:2], None, *PICTURES[3:]]))
    with pytest.raises(NotFound, match=words):
        read_uri(cell(file, row, column))


def test_a_missing_table_is_not_found_and_others_are_not_readable(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_uri(cell(parse(str(tmp_path / "none.parquet")), 0))
    for junk in (b"", b"PAR1", b"x" * 100, table(PICTURES)[:-20], b"PAR1" + table(PICTURES)[300:]):
        with pytest.raises(Corrupt, match="not readable Parquet"):
            read_uri(cell(write(tmp_path, junk), 0))


def test_large_pictures_and_large_row_groups_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, table(PICTURES))
    with pytest.raises(TooLarge):
        read_uri(cell(file, 0), max_bytes=100)
    monkeypatch.setattr(cells, "MAX_GROUP_BYTES", 1000)
    with pytest.raises(Corrupt, match="row_group_size=100"):
        read_uri(cell(file, 5))


def test_one_picture_a_thousand_times_does_not_fill_the_memory(tmp_path: Path) -> None:
    sink, large = io.BytesIO(), b"x" * 1_000_000
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), pa.array([large], pa.binary()))
    pq.write_table(pa.table({"image": column}), sink, store_schema=False)  # 5 GB, written as one value
    assert len(sink.getvalue()) < 2_000_000
    before = pa.total_allocated_bytes()
    assert read_uri(cell(write(tmp_path, sink.getvalue()), 4999)) == large
    assert pa.total_allocated_bytes() - before < 50_000_000


def planned(file: Address, row: int, etag: str | None) -> PlannedPhoto:
    return PlannedPhoto(0, 0, key="a.jpg", uri=cell(file, row), etag=etag)


def test_a_table_that_was_replaced_is_not_read_as_the_planned_one(tmp_path: Path) -> None:
    file = write(tmp_path, table(PICTURES))
    entry = open_store(str(tmp_path)).stat("a #1.parquet")
    assert entry is not None
    assert read_planned(planned(file, 3, entry.etag)) == (PICTURES[3], entry.etag)
    write(tmp_path, table(PICTURES[::-1]))
    with pytest.raises(NotFound, match="replaced since it was planned"):
        read_planned(planned(file, 3, entry.etag))
    assert read_uri(cell(file, 0)) == PICTURES[10]  # what is kept in memory is not taken for it


def test_a_table_whose_folder_is_gone_is_an_outage(tmp_path: Path) -> None:
    photo = planned(parse(str(tmp_path / "unmounted" / "t.parquet")), 0, "tag")
    assert not is_served(photo)
    with pytest.raises(StoreUnavailable):
        read_planned(photo)
