"""Manifests as tools write them, and as somebody who means harm writes them."""

from __future__ import annotations

import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.edit_settings import OPTIONS
from tasks.photos import manifests
from tasks.photos.manifest_rows import MAX_TEXT
from tasks.photos.manifests import Line, mask_of, read_manifest
from tasks.store.access import Access
from tasks.store.errors import StoreError
from tasks.store.objects import read_uri


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "set"
    (place / "s1").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "s1/0001.jpg"):
        (place / name).write_bytes(b"x")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    return place


def entries(folder: Path, name: str, content: str | bytes, access: Access = Access()) -> list[dict[str, Any]]:  # noqa: B008
    data = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(data)
    return list(read_manifest(str(folder / name), access))


def parquet(columns: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


PLAIN = "path,prompt\na.jpg,haze\n"
WRITTEN = {
    "plain.csv": PLAIN,
    "bom.csv": "\ufeff" + PLAIN,
    "semicolons.csv": PLAIN.replace(",", ";"),
    "tabs.tsv": PLAIN.replace(",", "\t"),
    "excel.csv": "sep=;\r\n" + PLAIN.replace(",", ";").replace("\n", "\r\n"),
    "capitals.csv": "Path , PROMPT\na.jpg,haze\n",
    "utf16.csv": PLAIN.encode("utf-16"),
    "utf16-be.csv": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "utf16-without-mark.csv": PLAIN.encode("utf-16-le"),
    "utf32.csv": PLAIN.encode("utf-32"),
    "lines.jsonl": '{"path": "a.jpg", "prompt": "haze"}\n',
    "bom.jsonl": '\ufeff{"path": "a.jpg", "prompt": "haze"}\n',
    "array.json": '[{"path": "a.jpg", "prompt": "haze"}]',
    "lines.json": '{"path": "a.jpg", "prompt": "haze"}\n{"path": "b.jpg"}\n',
    "hugging-face.jsonl": '{"file_name": "a.jpg", "prompt": "haze"}\n',
    "image-struct.jsonl": '{"image": {"bytes": null, "path": "a.jpg"}, "prompt": "haze"}\n',
    "source-uri.csv": "source_uri,prompt\na.jpg,haze\n",
    "crlf.csv": PLAIN.replace("\n", "\r\n"),
    "mac.csv": PLAIN.replace("\n", "\r"),
    "quotes.csv": '"path","prompt"\n"a.jpg","haze"\n',
    "excel-quoted.csv": '"sep=;"\npath;prompt\na.jpg;haze\n',
    "comments.csv": "# made by a tool\n#\npath,prompt\n# the first\na.jpg,haze\n",
    "blank-lines.csv": "\n \n\npath,prompt\n\na.jpg,haze\n\n",
    "index.csv": ",path,prompt\n0,a.jpg,haze\n",
    "more-columns.csv": 'id,path,label,prompt,note\n1,a.jpg,x,haze,"a, b"\n',
    "trailing-separator.csv": "path,prompt,\na.jpg,haze,\n",
    "padded.csv": "path , prompt\na.jpg , haze\n",
    "put-together.csv": PLAIN + PLAIN,
    "pipes.csv": PLAIN.replace(",", "|"),
    "utf16-le.csv": b"\xff\xfe" + PLAIN.encode("utf-16-le"),
    "utf16-be-without-mark.csv": PLAIN.encode("utf-16-be"),
    "utf16.jsonl": '{"path": "a.jpg", "prompt": "haze"}\n'.encode("utf-16"),
    "gzip.csv.gz": gzip.compress(PLAIN.encode()),
    "gzip.jsonl.gz": gzip.compress(b'{"path": "a.jpg", "prompt": "haze"}\n'),
    "gzip-unnamed.csv": gzip.compress(PLAIN.encode("utf-16")),
    "windows.csv": "path,prompt\n.\\a.jpg,haze\n",
    "dot.csv": "path,prompt\n./a.jpg,haze\n",
    "image-path.csv": "Image Path,Prompt\na.jpg,haze\n",
    "file-path.csv": "filepath,prompt\na.jpg,haze\n",
    "newlines.ndjson": '{"path": "a.jpg", "prompt": "haze"}\n',
    "indented.json": json.dumps([{"path": "a.jpg", "prompt": "haze"}], indent=2),
    "indented-objects.jsonl": '{\n "path": "a.jpg",\n "prompt": "haze"\n}\n{\n "path": "b.jpg"\n}\n',
    "commas.jsonl": '{"path": "a.jpg", "prompt": "haze"},\n{"path": "b.jpg"},\n',
    "one-line.jsonl": '{"path": "a.jpg", "prompt": "haze"}{"path": "b.jpg"}',
    "indented-utf16.json": json.dumps([{"path": "a.jpg", "prompt": "haze"}], indent=2).encode("utf-16"),
    "pandas-columns.json": '{"path": {"0": "a.jpg", "1": "b.jpg"}, "prompt": {"0": "haze", "1": null}}',
    "pandas-split.json": '{"columns": ["path", "prompt"], "index": [0], "data": [["a.jpg", "haze"]]}',
    "pandas-list.json": '{"path": ["a.jpg"], "prompt": ["haze"]}',
    "coco.json": '{"info": {}, "images": [{"id": 1, "file_name": "a.jpg", "prompt": "haze"}], "annotations": [{"id": 1}]}',
}


@pytest.mark.parametrize("name", WRITTEN)
def test_each_tool_is_understood(folder: Path, name: str) -> None:
    found = entries(folder, name, WRITTEN[name])
    assert (found[0]["key"], found[0]["prompt"]) == ("a.jpg", "haze")
    assert found[0]["uri"] in (f"file://{folder}/a.jpg", f"file://{folder}/./a.jpg")
    assert not [entry for entry in found if "problem" in entry]


def test_a_list_of_paths(folder: Path) -> None:
    assert [entry["key"] for entry in entries(folder, "x.json", '["a.jpg", "b.jpg"]')] == ["a.jpg", "b.jpg"]


def test_line_separators_within_text_end_no_line(folder: Path) -> None:
    """JavaScript and Python write them as they are; ``str.splitlines`` takes them for ends of lines."""
    for odd in "\u2028\u2029\x85\x0b\x0c\x1c\x1e":
        prompt, expected = f"haze{odd}and fog", [("a.jpg", f"haze{odd}and fog"), ("b.jpg", None)]
        if odd >= " ":  # control characters may not stand in JSON
            lines = json.dumps({"path": "a.jpg", "prompt": prompt}, ensure_ascii=False) + '\n{"path": "b.jpg"}\n'
            assert [(entry["key"], entry.get("prompt")) for entry in entries(folder, "x.jsonl", lines)] == expected
        found = entries(folder, "x.csv", f"path,prompt\na.jpg,{prompt}\nb.jpg,\n")
        assert [(entry["key"], entry.get("prompt")) for entry in found] == expected


@pytest.mark.parametrize("broken", ['s1/0001.jpg,"haze', 's1/0001.jpg,"ha"ze', "s1/0001.jpg,a,b", '"s1/0001.jpg,haze'])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_broken_line_takes_no_other_along(folder: Path, broken: str, separator: str) -> None:
    lines = "\n".join(["path,prompt", "a.jpg,x", broken, "b.jpg,y", 'a.jpg,"two\nlines"', "b.jpg,z"])
    found = entries(folder, "x.csv", lines.replace(",", separator))
    assert [entry.get("prompt") for entry in found if "problem" not in entry] == ["x", "y", "two\nlines", "z"]
    (problem,) = [entry["problem"] for entry in found if "problem" in entry]
    assert "row 2" in problem


@pytest.mark.parametrize("gap", ["", "NaN", "nan", "NULL", "null", "None", "<NA>"])
def test_gaps_are_gaps_in_any_column(folder: Path, gap: str) -> None:
    (entry, other) = entries(folder, "x.csv", f"path,prompt,seed,amplify\na.jpg,{gap},{gap},{gap}\n{gap},x,,\n")
    assert entry.keys() == {"key", "uri"}
    assert "column path is empty" in other["problem"]


def test_commas_as_decimal_points_beside_semicolons(folder: Path) -> None:
    (entry,) = entries(folder, "x.csv", "path;amplify;seed\na.jpg;1,5;7,0\n")
    assert (json.loads(entry["edit_settings"])["amplify"], entry["seed"]) == (1.5, 7)


def test_a_zero_byte_in_text_makes_no_utf16_of_it(folder: Path) -> None:
    found = entries(folder, "x.csv", b"path,prompt\na.jpg,ha\0ze\nb\0.jpg,x\nb.jpg,y\n")
    assert [(entry["key"], "problem" in entry) for entry in found] == [
        ("a.jpg", False),
        ("b\\x00.jpg", True),
        ("b.jpg", False),
    ]


def test_gzip_unpacks_within_limits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(b"path\n" + b"a.jpg\n" * 1000)
    with pytest.raises(ValueError, match="gzip that ends early"):
        entries(folder, "x.csv.gz", packed[:-9])
    with pytest.raises(ValueError, match="damaged gzip"):
        entries(folder, "x.csv.gz", packed[:20] + b"xxxxx" + packed[25:])
    monkeypatch.setattr(manifests, "MAX_MANIFEST_BYTES", 3000)
    with pytest.raises(ValueError, match="unpacks to more than 3,000 bytes"):
        entries(folder, "x.csv.gz", packed)


@pytest.mark.parametrize(
    ("magic", "said"), [(b"PK\3\4", "Excel"), (b"ARROW1\0\0", "Arrow"), (b"\xd0\xcf\x11\xe0", "Excel")]
)
def test_tables_of_other_programs_are_called_so(folder: Path, magic: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=f"{said}.*: save it as CSV"):
        entries(folder, "x.csv", magic + bytes(100))


def test_numbers_as_pandas_writes_them(folder: Path) -> None:
    found = entries(folder, "seeds.csv", "path,prompt,seed\na.jpg,a,7.0\nb.jpg,,\ns1/0001.jpg,x,NaN\n")
    assert [entry.get("seed") for entry in found] == [7, None, None]
    seeds = pa.array([7.0, float("nan"), None])
    found = entries(folder, "s.parquet", parquet({"path": ["a.jpg", "b.jpg", "s1/0001.jpg"], "seed": seeds}))
    assert [entry.get("seed") for entry in found] == [7, None, None]
    assert type(found[0]["seed"]) is int


PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def pictures(*cells: tuple[bytes | None, str | None] | None) -> pa.Array:
    return pa.array(
        [None if cell is None else dict(zip(("bytes", "path"), cell, strict=True)) for cell in cells], PICTURE
    )


def test_hugging_face_pictures_that_are_paths(folder: Path) -> None:
    paths = pictures((None, "a.jpg"), (None, "b.jpg"))
    assert [entry["key"] for entry in entries(folder, "hf.parquet", parquet({"image": paths}))] == ["a.jpg", "b.jpg"]


INSIDE: dict[str, tuple[dict[str, Any], list[str]]] = {
    "paths": ({"image": pictures((b"1", "x/a.jpg"), (b"2", "b.png"))}, ["x/a.jpg", "b.png"]),
    "no paths": ({"image": pictures((b"1", None), (b"2", ""))}, ["t/000000", "t/000001"]),
    "foreign paths": (
        {"image": pictures((b"1", "/home/u/a.jpg"), (b"2", "hf://datasets/x/b.jpg"), (b"3", "c.jpg::zip://d.zip"))},
        ["a.jpg", "b.jpg", "c.jpg"],
    ),
    "other name": ({"img": pictures((b"1", "a.jpg")), "label": [1]}, ["a.jpg"]),
    "beside an address": ({"url": ["https://example.org/a.jpg"], "image": pictures((b"1", "a.jpg"))}, ["a.jpg"]),
    "key": ({"key": ["k.jpg"], "image": pictures((b"1", "a.jpg"))}, ["k.jpg"]),
    "capitals": ({"Image": pictures((b"1", "a.jpg"))}, ["a.jpg"]),
    "bytes alone": ({"image": pa.array([b"1", b"2"])}, ["t/000000", "t/000001"]),
    "struct of bytes": ({"image": pa.array([{"bytes": b"1"}])}, ["t/000000"]),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_pictures_inside_parquet_are_photos(folder: Path, kind: str) -> None:
    columns, keys = INSIDE[kind]
    found = entries(folder, "t.parquet", parquet(columns))
    assert [entry["key"] for entry in found] == keys
    assert [read_uri(entry["uri"]) for entry in found] == [str(i + 1).encode() for i in range(len(keys))]
    assert len({entry["etag"] for entry in found}) == 1


@pytest.mark.parametrize("statistics", [True, False])
def test_pictures_paths_and_gaps_in_one_column(folder: Path, statistics: bool) -> None:
    cells = pictures((b"1", "x.jpg"), (None, "a.jpg"), (None, None), None, (b"5", None))
    sink = io.BytesIO()
    prompts = ["p", "q", "r", "s", "t"]
    pq.write_table(pa.table({"image": cells, "prompt": prompts}), sink, write_statistics=statistics, row_group_size=3)
    found = entries(folder, "t.parquet", sink.getvalue())
    assert [entry["key"] for entry in found] == ["x.jpg", "a.jpg", "row 3", "row 4", "t/000004"]
    assert [read_uri(found[i]["uri"]) for i in (0, 1, 4)] == [b"1", b"x", b"5"]
    assert [entry.get("prompt") for entry in found] == ["p", "q", None, None, "t"]
    assert ["column image is empty" in entry.get("problem", "") for entry in found] == [False, False, True, True, False]


def test_a_mask_inside_parquet(folder: Path) -> None:
    white = io.BytesIO()
    Image.new("L", (8, 8), 255).save(white, "PNG")
    cells = {"image": pictures((b"1", "a.jpg")), "mask": pictures((white.getvalue(), None))}
    (entry,) = entries(folder, "t.parquet", parquet(cells))
    assert entry["mask"] == mask_of(white.getvalue())


def test_two_columns_of_pictures_need_a_name(folder: Path) -> None:
    two = {"hazy": pictures((b"1", "a.jpg")), "clear": pictures((b"2", "a.jpg"))}
    with pytest.raises(ValueError, match="columns hazy, clear hold pictures"):
        entries(folder, "t.parquet", parquet(two))


def test_a_manifest_cannot_lead_into_other_tables(folder: Path) -> None:
    (folder.parent / "other.parquet").write_bytes(parquet({"image": pictures((b"1", "a.jpg"))}))
    uri = f"parquet+file://{folder.parent}/other.parquet#image/0"
    with pytest.raises(ValueError, match="lies outside"):
        entries(folder, "m.jsonl", json.dumps({"uri": uri}))
    (folder / "own.parquet").write_bytes(parquet({"image": pictures((b"1", "a.jpg"))}))
    (entry,) = entries(folder, "m.jsonl", json.dumps({"uri": f"parquet+file://{folder}/own.parquet#image/0"}))
    assert read_uri(entry["uri"]) == b"1"


def test_a_folder_of_parquet_files_is_one_manifest(folder: Path) -> None:
    (folder / "spark.parquet").mkdir()
    for name, path in (("part-1.parquet", "b.jpg"), ("part-0.parquet", "a.jpg"), ("_x.parquet", "no.jpg")):
        (folder / "spark.parquet" / name).write_bytes(parquet({"path": [path]}))
    (folder / "spark.parquet" / "_SUCCESS").write_bytes(b"")
    assert [entry["key"] for entry in read_manifest(str(folder / "spark.parquet"))] == ["a.jpg", "b.jpg"]


SHAPES: dict[str, Any] = {
    "seed text": {"seed": "seven"}, "seed half": {"seed": 7.5}, "seed negative": {"seed": -1}, "seed huge": {"seed": 1e300},
    "seed infinite": {"seed": float("inf")}, "seed list": {"seed": [1]}, "seed true": {"seed": True},
    "prompt object": {"prompt": {"a": 1}}, "prompt long": {"prompt": "x" * 20_000}, "blend three": {"blended_word": "a b c"},
    "share infinite": {"cross_replace": float("inf")}, "share large": {"cross_replace": 7}, "share text": {"blend_start": "x"},
    "tokens odd": {"tokens": "rm -rf"}, "tokens list": {"tokens": []}, "reweight list": {"reweight": [1, 2]},
    "reweight deep": {"reweight": {"a": {"b": 1}}}, "reweight text": {"reweight": "snow"}, "amplify": {"amplify": "1e999"},
    "mask odd": {"mask": [1]}, "mask outside": {"mask": [10**9, 5]}, "mask negative": {"mask": [5, -1]},
    "mask object": {"mask": {"a": 1}}, "mask nested": {"mask": "[[1,2],[3,4]]"}, "mask broken": {"mask": "[1, 2"},
    "mask null": {"mask": "[null]"}, "mask gone": {"mask": "no.png"}, "mask not a picture": {"mask": "b.jpg"},
    "mask outside root": {"mask": "../secret.jpg"}, "mask absolute": {"mask": "/etc/passwd"}, "mask device": {"mask": "/dev/zero"},
    "path list": {"path": ["a.jpg"]}, "path number list": {"path": [1]}, "path object": {"path": {"x": 1}},
    "path bytes": {"path": {"bytes": "x", "path": "a.jpg"}}, "path long": {"path": "x" * 10_000},
    "path up": {"path": "../secret.jpg"}, "path absolute": {"path": "/etc/passwd"}, "path file url": {"path": "file:///etc/passwd"},
    "path percent": {"path": "file:///%2e%2e/etc/passwd"}, "path nul": {"path": "a\0.jpg"}, "path scheme": {"path": "gopher://h/a"},
    "path chain": {"path": "simplecache::s3://b/k"}, "path bucket": {"path": "s3://other/a.jpg"}, 
    "path link": {"path": "/proc/self/environ"},
    "path http": {"path": "http://127.0.0.1/a.jpg"}, "path metadata": {"path": "http://169.254.169.254/latest"},
    "path userinfo": {"path": "https://u:p@h/a.jpg"}, "path signed": {"path": "s3://b/k?X-Amz-Signature=s&X-Amz-Credential=c"},
    "key list": {"key": [1]}, "key long": {"key": "x" * 10_000},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bad_line_is_a_failed_row_and_its_neighbours_go_on(folder: Path, shape: str) -> None:
    lines = [{"path": "b.jpg"}, {"path": "a.jpg", **SHAPES[shape]}, {"path": "s1/0001.jpg"}]
    first, bad, last = entries(folder, "list.jsonl", "\n".join(map(json.dumps, lines)))
    assert (first["key"], last["key"]) == ("b.jpg", "s1/0001.jpg")
    assert "problem" not in {**first, **last}
    assert "list.jsonl, row 2" in bad["problem"], "names the row"
    column = next(iter(SHAPES[shape]))
    if column not in {"path", "blended_word"}:
        assert column in bad["problem"], "names the column"
    assert len(bad["problem"]) < 1000


def test_lines_that_cannot_be_read_at_all(folder: Path) -> None:
    text = '{"path": "a.jpg"}\n{not json\n[1]\n"text"\n' + "[" * 100_000 + '\n{"path": "b.jpg"}\n'
    found = entries(folder, "list.jsonl", text)
    assert [("problem" in entry) for entry in found] == [False, True, True, True, True, False]
    found = entries(folder, "list.csv", "path,prompt\na.jpg,x\nb.jpg,x,y,z\na.jpg," + "x" * 200_000 + "\nb.jpg,x\n")
    assert [("problem" in entry) for entry in found] == [False, True, True, False]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.csv", "", "names no photo"),
        ("header.csv", "path,prompt\n", "names no photo"),
        ("other.csv", "prompt\nhaze\n", "no column names the photo"),
        ("twice.csv", "path,path\na.jpg,b.jpg\n", "two columns called path"),
        ("latin.csv", "path\nfa\xe7ade.jpg\n".encode("latin-1"), "line 2 is not UTF-8"),
        ("broken.json", '[{"path": "a.jpg"}', "not JSON"),
        ("deep.json", "[" * 100_000, "not JSON"),
        ("broken.parquet", b"PAR1" + b"x" * 100 + b"PAR1", "not readable Parquet"),
        ("short.parquet", b"PAR1", "not readable Parquet"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(
    folder: Path, name: str, content: str | bytes, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        entries(folder, name, content)


def test_places_the_operator_lists_may_be_named(folder: Path) -> None:
    text = f"path\na.jpg\n{folder.parent}/secret.jpg\n"
    assert "--allow-root" in entries(folder, "list.csv", text)[1]["problem"]
    allowed = entries(folder, "list.csv", text, Access.to(str(folder.parent)))[1]
    assert "problem" not in allowed
    assert allowed["key"] == "secret.jpg"
    web = "path\na.jpg\nhttps://example.org/a.jpg\n"
    assert "--allow-http" in entries(folder, "list.csv", web)[1]["problem"]
    assert entries(folder, "list.csv", web, Access(http=True))[1]["key"] == "a.jpg"


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    (folder / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    assert "problem" in entries(folder, "list.csv", "path\na.jpg\nlink.jpg\n")[1]


def test_signatures_stay_out_of_keys_and_messages(folder: Path) -> None:
    signed = "https://h/d/photo%20one.jpg?X-Amz-Credential=CANARY&X-Amz-Signature=CANARY"
    text = f"path,seed\na.jpg,\n{signed},\n{signed},x\ns3://b/k?X-Amz-Credential=CANARY&X-Amz-Signature=CANARY,\n"
    _, good, bad, bucket = entries(folder, "list.csv", text, Access(http=True))
    assert good["key"] == "photo one.jpg"
    assert "CANARY" in good["uri"], "reading needs it"
    assert "CANARY" not in f"{bad['key']}{bad['problem']}{bucket['key']}{bucket['problem']}"


@pytest.mark.long
def test_a_value_repeated_by_a_dictionary_does_not_fill_the_memory(folder: Path) -> None:
    """2 MB of Parquet that unpack to 40 GB of prompts."""
    values = pa.array(["a.jpg"] * 20_000)
    prompt = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 2_000_000]))
    data = parquet({"path": values, "prompt": prompt})
    assert len(data) < 4_000_000
    (folder / "bomb.parquet").write_bytes(data)
    with pytest.raises(ValueError, match="prompt: String should have at most"):
        list(read_manifest(str(folder / "bomb.parquet")))
    assert MAX_TEXT < 2_000_000


@pytest.mark.long
def test_masks_go_through_the_decoder_of_photos() -> None:
    with pytest.raises(ValueError, match="no picture file"):
        mask_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    sink = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(sink, "PNG")
    with pytest.raises(ValueError, match=r"pixels|larger"):
        mask_of(sink.getvalue())
    sink = io.BytesIO()
    Image.fromarray(np.uint8([[0, 255], [0, 0]])).resize((64, 64), 0).save(sink, "PNG")
    assert len(mask_of(sink.getvalue())) == 2 * 256, "the upper right quarter: a run in each of 256 rows"


def test_a_pipe_is_no_manifest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.csv")
    with pytest.raises(StoreError, match="device, pipe or socket"):
        list(read_manifest(str(tmp_path / "list.csv")))


def test_every_setting_of_an_edit_is_a_column() -> None:
    assert set(OPTIONS) <= set(Line.model_fields)
