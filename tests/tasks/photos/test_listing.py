"""Which files of a source are photos, what is passed over, and what is said when there is nothing to do."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tasks.photos.listing import DANGLING, HIDDEN_FILES, HIDDEN_FOLDERS, LINKS, NO_FILES, PassedOver
from tasks.photos.sources import list_photos
from tasks.store.errors import NotFound, StoreError
from tasks.store.pictures import picture_key
from tests.tasks.photos import zoo


def listed(source: object, **options: object) -> tuple[list[str], dict[str, int]]:
    passed = PassedOver()
    return sorted(e["key"] for e in list_photos(str(source), passed=passed, **options)), dict(passed)  # type: ignore[arg-type]


def write(root: Path, *names: str, data: bytes = zoo.JPEG) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_every_suffix_that_cameras_and_browsers_use_in_any_case(tmp_path: Path) -> None:
    names = ["UPPER.JPEG", "browser.jfif", "phone.mpo", "a.JPE", "b.TIFF", "c.HEIC", "d.hif", "e.Avif", "f.webp"]
    write(tmp_path, *names)
    assert listed(tmp_path) == (sorted(names), {})


def test_names_that_do_not_say_are_told_by_content(tmp_path: Path) -> None:
    write(tmp_path, "IMG_0001", "download.dat0", "photo.jpg_large", "image.backup")
    write(tmp_path, "PNG", data=zoo.PNG)
    write(tmp_path, "animation", data=b"GIF89a" + bytes(50))  # gets a row that says it is not supported
    write(tmp_path, "README", "Makefile.jpg_notes", data=b"text")
    write(tmp_path, "empty", data=b"")
    keys, passed = listed(tmp_path)
    assert keys == ["IMG_0001", "PNG", "animation", "download.dat0", "image.backup", "photo.jpg_large"]
    assert passed == {"without a suffix": 2, ".jpg_notes": 1}


def test_what_servers_and_systems_keep_is_passed_over_and_counted(tmp_path: Path) -> None:
    write(
        tmp_path, "a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", ".thumbnails/1.jpg", ".Trash-1000/files/2.jpg",
        "__MACOSX/._a.jpg", "sub/.hidden/3.jpg", "$RECYCLE.BIN/4.jpg", "sub/@eaDir/5.jpg", "._a.jpg", ".b.jpg",
        "b.NEF", "c.dng", "d.xmp", "notes.txt", "clip.mp4", "sub/list.csv",
    )  # fmt: skip
    keys, passed = listed(tmp_path)
    assert keys == ["a.jpg"]
    assert passed.pop(HIDDEN_FOLDERS) == 7
    assert passed.pop(HIDDEN_FILES) == 2
    assert passed.pop(".nef (raw camera data)") == passed.pop(".dng (raw camera data)") == 1
    assert passed.pop(".txt") == passed.pop(".mp4") == passed.pop(".csv") == 1
    assert sum(passed.values()) == 1


@pytest.mark.parametrize(
    "folder", ["@Recycle", "@Recently-Snapshot", ".@__thumb", "#Recycle", "$Recycle.Bin", "RECYCLER", "_vti_cnf", ".dtrash",
               ".picasaoriginals", ".AppleDouble", ".Spotlight-V100", ".git", "@EADIR", "lost+found"],
)  # fmt: skip
def test_service_folders_of_other_systems(tmp_path: Path, folder: str) -> None:
    write(tmp_path, "a.jpg", f"sub/{folder}/deep/b.jpg")
    assert listed(tmp_path) == (["a.jpg"], {HIDDEN_FOLDERS: 1})


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("**/*.jpg", ["Holiday [2024]/b.jpg", "a.jpg", "sub/deep/c.jpg"]),
        ("sub/**/*.jpg", ["sub/deep/c.jpg"]),
        ("Holiday [2024]/*.jpg", ["Holiday [2024]/b.jpg"]),
        ("*/b.jp[g]", ["Holiday [2024]/b.jpg"]),
        ("./?.jpg", ["a.jpg"]),
    ],
)
def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, keys: list[str]) -> None:
    write(tmp_path, "a.jpg", "Holiday [2024]/b.jpg", "sub/deep/c.jpg")
    monkeypatch.chdir(tmp_path)
    for source in (pattern, f"{tmp_path}/{pattern}"):
        found = [Path(unquote(urlsplit(entry["uri"]).path)) for entry in list_photos(source)]
        assert sorted(str(path.relative_to(tmp_path)) for path in found) == keys


def test_hidden_folders_are_listed_when_asked_for(tmp_path: Path) -> None:
    write(tmp_path, ".thumbnails/1.jpg", "sub/@eaDir/2.jpg")
    assert listed(tmp_path / ".thumbnails")[0] == ["1.jpg"]
    assert listed(f"{tmp_path}/*/@eaDir/*.jpg")[0] == ["sub/@eaDir/2.jpg"]
    assert listed(f"{tmp_path}/.thumbnails/*.jpg")[0] == ["1.jpg"]


@pytest.mark.parametrize("name", ["Holiday [2024]", "What?", "[a-z]", "*", "a*b", "many.jpg", "zip.zip", "x.csv"])
def test_a_path_that_exists_is_literal_before_it_is_a_pattern(tmp_path: Path, name: str) -> None:
    write(tmp_path, f"{name}/a.jpg", "Holiday 2/b.jpg", "Whata/b.jpg", "q/b.jpg")
    assert listed(tmp_path / name)[0] == ["a.jpg"]
    assert listed(f"{tmp_path}/{name}/*.jpg")[0] == ["a.jpg"]
    if not name.startswith("*"):
        assert listed(f"{tmp_path}/{name}/a.jpg")[0] == ["a.jpg"]


def test_a_file_of_a_strange_name_is_itself(tmp_path: Path) -> None:
    write(tmp_path, "a[1].jpg", "a1.jpg", "what?.jpg", "whats.jpg")
    assert listed(tmp_path / "a[1].jpg")[0] == ["a[1].jpg"]
    assert listed(tmp_path / "what?.jpg")[0] == ["what?.jpg"]
    assert listed(tmp_path / "a[!x].jpg")[0] == ["a1.jpg"]
    assert listed(tmp_path / "IMG_1") == ([], {}) if (tmp_path / "IMG_1").exists() else True
    write(tmp_path, "IMG_1")
    assert listed(tmp_path / "IMG_1")[0] == ["IMG_1"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "holds no photo"),
        (("notes.txt", "b.txt", "c.md"), r"Passed over: 2 \.txt, 1 \.md"),
        ((".thumbnails/1.jpg",), "Passed over: 1 in hidden or service folders"),
        (("raw.cr3",), r"1 \.cr3 \(raw camera data\)"),
    ],
)
def test_nothing_to_do_because_nothing_was_found_is_an_error_that_counts(
    tmp_path: Path, names: tuple[str, ...], said: str
) -> None:
    write(tmp_path / "in", *names, data=b"x")
    (tmp_path / "in").mkdir(exist_ok=True)
    with pytest.raises(NotFound, match=said):
        listed(tmp_path / "in")


def test_links_that_lead_out_and_linked_folders_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/a.jpg", "in/b.jpg")
    os.symlink(tmp_path / "elsewhere" / "a.jpg", tmp_path / "in" / "out.jpg")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "folder")
    os.symlink(tmp_path / "in" / "b.jpg", tmp_path / "in" / "inside.jpg")
    assert listed(tmp_path / "in") == (["b.jpg", "inside.jpg"], {LINKS: 2})
    os.symlink(tmp_path / "in" / "gone.jpg", tmp_path / "in" / "dangling.jpg")
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    assert listed(tmp_path / "in")[1] == {LINKS: 2, DANGLING: 1, NO_FILES: 1}
    (tmp_path / "links").mkdir()
    os.symlink(tmp_path / "elsewhere" / "a.jpg", tmp_path / "links" / "a.jpg")
    with pytest.raises(NotFound, match="1 links that lead out"):
        listed(tmp_path / "links")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("photos.zip", "is an archive or compressed: unpack it"),
        ("photos.tar", "unpack it"),
        ("photos.tar.gz", "unpack it"),
        ("list.gz", "unpack it"),
        ("table.xlsx", "no photo and no manifest"),
        ("list.yaml", "no photo and no manifest"),
        ("noext", "no photo and no manifest"),
        ("list.txt", "write 'path' as its first line and name it .csv"),
    ],
)
def test_archives_and_lists_get_one_sentence(tmp_path: Path, name: str, said: str) -> None:
    write(tmp_path, name, data=b"many.jpg\n")
    with pytest.raises(StoreError, match=said):
        listed(tmp_path / name)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(StoreError, match="no file and no folder"):
        listed(tmp_path / "pipe.jpg")
    write(tmp_path, "a.jpg")
    assert listed(tmp_path)[0] == ["a.jpg"]


@pytest.mark.parametrize(
    ("key", "suffix", "expected"),
    [
        ("UPPER.JPEG", ".jpg", "images/UPPER.JPEG"),
        ("browser.jfif", ".jpg", "images/browser.jfif"),
        ("phone.mpo", ".jpg", "images/phone.mpo"),
        ("scan.TIFF", ".tif", "images/scan.TIFF"),
        ("IMG.HEIC", ".heic", "images/IMG.HEIC"),
        ("IMG.hif", ".heic", "images/IMG.hif"),
        ("sub/b.jpg", ".png", "images/sub/b.jpg.png"),
        ("IMG_0001", ".jpg", "images/IMG_0001.jpg"),
        ("IMG.HEIC", ".jpg", "images/IMG.HEIC.jpg"),
    ],
)
def test_pictures_keep_their_photos_own_name_and_suffix(key: str, suffix: str, expected: str) -> None:
    assert picture_key(key, suffix) == expected


class TestBuckets:
    """The same in a bucket, where there are no folders."""

    @pytest.fixture
    def bucket(self, moto: object, monkeypatch: pytest.MonkeyPatch) -> str:
        for name, value in moto.env.items():  # type: ignore[attr-defined]
            monkeypatch.setenv(name, value)
        client = moto.client()  # type: ignore[attr-defined]
        client.create_bucket(Bucket="kinds")
        for key in (
            "p/a.jpg",
            "p/IMG_1",
            "p/@eaDir/t.jpg",
            "p/notes.txt",
            "x.jpg/b.jpg",
            "Holiday [2024]/c.jpg",
            "IMG_2",
        ):
            client.put_object(Bucket="kinds", Key=key, Body=zoo.JPEG)
        return "s3://kinds"

    def test_all_of_it(self, bucket: str) -> None:
        assert listed(f"{bucket}/p") == (["IMG_1", "a.jpg"], {HIDDEN_FOLDERS: 1, ".txt": 1})
        assert listed(f"{bucket}/x.jpg")[0] == ["b.jpg"]
        assert listed(f"{bucket}/Holiday [2024]")[0] == ["c.jpg"]
        assert listed(f"{bucket}/p/*.jpg")[0] == ["a.jpg"]
        assert listed(f"{bucket}/p/a.jpg")[0] == ["a.jpg"]
        with pytest.raises(NotFound, match="holds no photo"):
            listed(f"{bucket}/nothing")
        with pytest.raises(NotFound, match="does not exist"):
            listed(f"{bucket}/nothing.jpg")
