"""What a source lists."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.photos.sources import list_photos
from tasks.store.errors import NotFound


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "sub/c d ü.webp", "sub/deep/e.tif", "notes.txt", ".hidden.jpg", "clip.gif"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "photos"


def keys(source: object, **options: object) -> list[str]:
    return sorted(entry["key"] for entry in list_photos(str(source), **options))  # type: ignore[arg-type]


def test_a_folder_lists_its_photos_with_relative_keys(folder: Path) -> None:
    assert keys(folder) == ["a.PNG", "b.jpg", "clip.gif", "sub/c d ü.webp", "sub/deep/e.tif"]
    entry = next(e for e in list_photos(str(folder)) if e["key"] == "b.jpg")
    assert entry["size"] == 1
    assert entry["etag"]
    assert entry["uri"].endswith("photos/b.jpg")


def test_an_output_inside_the_source_is_left_out(folder: Path) -> None:
    (folder / "out" / "images").mkdir(parents=True)
    (folder / "out" / "images" / "b.jpg").write_bytes(b"y")
    assert "out/images/b.jpg" in keys(folder)
    assert "out/images/b.jpg" not in keys(folder, output=str(folder / "out"))


def test_globs_and_single_photos(folder: Path) -> None:
    assert keys(folder / "*.jpg") == ["b.jpg"]
    assert keys(folder / "sub" / "*") == ["c d ü.webp", "deep/e.tif"]
    assert keys(folder / "b.jpg") == ["b.jpg"]


@pytest.mark.parametrize("missing", ["nothing", "nothing.jpg", "nothing/*.jpg", "nothing.csv"])
def test_what_is_not_there_says_so(folder: Path, missing: str) -> None:
    with pytest.raises(NotFound, match=r"nothing"):
        keys(folder / missing)


LINES = [
    {"path": "b.jpg", "prompt": "a cat", "target_prompt": "a dog", "seed": 7, "blended_word": "cat dog"},
    {"path": "sub/c d ü.webp", "prompt": "a road", "target_prompt": None, "seed": None, "blended_word": None},
]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_manifests_carry_prompts_per_photo(folder: Path, kind: str) -> None:
    manifest = folder / f"list.{kind}"
    if kind == "jsonl":
        manifest.write_text("\n".join(json.dumps(line) for line in LINES))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(LINES), manifest)
    else:
        manifest.write_text(
            "path,prompt,target_prompt,seed,blended_word\nb.jpg,a cat,a dog,7,cat dog\nsub/c d ü.webp,a road,,,\n"
        )
    first, second = list_photos(str(manifest))
    assert (first["key"], first["prompt"], first["target_prompt"], first["seed"], first["blended_word"]) == (
        "b.jpg", "a cat", "a dog", 7, "cat dog",
    )  # fmt: skip
    assert first["uri"] == str(folder / "b.jpg") or first["uri"].endswith("photos/b.jpg")
    assert second["key"] == "sub/c d ü.webp"
    assert "target_prompt" not in second


def test_manifests_carry_the_settings_of_each_edit(folder: Path) -> None:
    manifest = folder / "list.csv"
    manifest.write_text('path,cross_replace,reweight,mask\nb.jpg,0.5,"snow=2, sky=0.5","[5, 3, 100, 2]"\na.PNG,,,\n')
    first, second = list_photos(str(manifest))
    assert json.loads(first["edit_settings"]) == {"cross_replace": 0.5, "reweight": "snow=2, sky=0.5"}
    assert first["mask"] == [5, 3, 100, 2]
    assert not {"edit_settings", "mask"} & set(second)
    manifest.write_text("path,self_replace\nb.jpg,much\n")
    with pytest.raises(ValueError, match=r"list\.csv, row 1, column self_replace: must be a number, not 'much'"):
        keys(manifest)


def test_pie_bench_mapping_file(tmp_path: Path) -> None:
    mapping = {
        "000": {
            "image_path": "0_random/a.jpg", "original_prompt": "a [red] car", "editing_prompt": "a [blue] car",
            "editing_type_id": "0", "blended_word": "car car", "mask": [5, 3, 100, 2],
        }
    }  # fmt: skip
    (tmp_path / "mapping_file.json").write_text(json.dumps(mapping))
    (entry,) = list_photos(str(tmp_path / "mapping_file.json"))
    assert entry["key"] == "0_random/a.jpg"
    assert entry["uri"].endswith("annotation_images/0_random/a.jpg")
    assert (entry["prompt"], entry["target_prompt"]) == ("a red car", "a blue car")
    assert entry["mask"] == [5, 3, 100, 2]
    assert entry["seed"] == 1234, "the benchmark's, of every image"


def test_broken_manifests_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{not json")
    with pytest.raises(ValueError, match=r"bad\.jsonl is not a readable manifest"):
        keys(tmp_path / "bad.jsonl")
    (tmp_path / "empty.csv").write_text("prompt\na cat\n")
    with pytest.raises(ValueError, match="call one of them path or uri"):
        keys(tmp_path / "empty.csv")


def test_http_is_refused_unless_asked_for(tmp_path: Path) -> None:
    (tmp_path / "web.csv").write_text("uri\nhttp://127.0.0.1:9/a.jpg\n")
    with pytest.raises(ValueError, match="http"):
        keys(tmp_path / "web.csv")
