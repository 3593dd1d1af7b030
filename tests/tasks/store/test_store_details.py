"""What only one kind of store can get wrong: links and leftovers on disk, pages and credentials on S3."""

from __future__ import annotations

import errno
import os
import tracemalloc
import uuid
from pathlib import Path
from typing import Any

import pytest

from tasks.store import errors
from tasks.store.backends import TEMPORARY, LocalBackend
from tasks.store.objects import open_store, read_uri
from tasks.store.retry import RetryPolicy
from tests.servers import S3Server
from tests.tasks.store.test_store_contract import QUICK


def test_a_symbolic_link_does_not_lead_out_of_a_folder(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "secret.jpg").write_bytes(b"secret")
    (root / "out").symlink_to(outside)
    (root / "photo.jpg").symlink_to(outside / "secret.jpg")
    (root / "fine.jpg").write_bytes(b"fine")
    (root / "alias.jpg").symlink_to(root / "fine.jpg")
    store = open_store(str(root))
    assert [entry.key for entry in store.list()] == ["alias.jpg", "fine.jpg"]
    for read in ("out/secret.jpg", "photo.jpg"):
        with pytest.raises(errors.InvalidLocation, match="out of"):
            store.get(read)
    with pytest.raises(errors.InvalidLocation):
        store.put("out/new.jpg", b"x")
    assert sorted(path.name for path in outside.iterdir()) == ["secret.jpg"]


def test_a_store_may_itself_lie_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    open_store(str(tmp_path / "link")).put("a/b.jpg", b"1")
    assert (tmp_path / "real" / "a" / "b.jpg").read_bytes() == b"1"


def test_names_that_are_not_utf8_are_listed_and_read(tmp_path: Path) -> None:
    names = [b"caf\xe9.jpg", b"caf\xe8.jpg", b"\xff\xfe/\x80.jpg", "\ufffd.jpg".encode()]
    for name in names:
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name)
    store = open_store(str(tmp_path))
    entries = list(store.list())
    assert sorted(entry.key for entry in entries) == sorted(name.decode(errors="replace") for name in names)
    assert sorted(store.get(entry.name) for entry in entries) == sorted(names)
    assert sorted(read_uri(store.address(entry.name).uri) for entry in entries) == sorted(names)
    for entry in entries:
        store.delete(entry.name)
    assert not list(store.list())


def test_a_listing_passes_over_what_vanishes_meanwhile(tmp_path: Path) -> None:
    """Another writer's temporary file is in the folder when names are read and gone when sizes are."""
    store = open_store(str(tmp_path))
    for key in ("a.jpg", "b.jpg", "c.jpg"):
        store.put(key, b"1")
    listing = store.list()
    assert next(listing).key == "a.jpg"
    (tmp_path / "b.jpg").unlink()
    assert [entry.key for entry in listing] == ["c.jpg"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
def test_a_refused_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    store = open_store(str(tmp_path), QUICK)
    monkeypatch.setattr(*{"replace": (Path, "replace")}.get(call, (os, call)), refuse)
    write = store.put if call == "replace" else store.put_new
    with pytest.raises(errors.StoreFull, match="free some"):
        write("a/k", b"x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_file_systems_without_links_are_refused_in_plain_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(errors.NotExclusive, match="hard links"):
        open_store(str(tmp_path), QUICK).probe_exclusive()


def test_a_name_cannot_be_file_and_folder(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), QUICK)
    store.put("a", b"1")
    store.put("folder/x", b"1")
    for write in (store.put, store.put_new):
        for key in ("a/b", "a/b/c", "folder"):
            with pytest.raises(errors.InvalidLocation, match="file and folder"):
                write(key, b"2")
    assert sorted(entry.key for entry in store.list()) == ["a", "folder/x"]


def test_a_temporary_file_is_no_object_of_a_glob(tmp_path: Path) -> None:
    assert not f"{TEMPORARY}{uuid.uuid4().hex}".endswith(".parquet")
    assert TEMPORARY.startswith(".")


def test_a_folder_that_cannot_be_read_at_once_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    scandir, failures = os.scandir, [errno.EIO, errno.ESTALE]

    def fails_twice(path: str) -> Any:
        if Path(path).name == "b" and failures:
            raise OSError(failures.pop(), "a share that was away for a moment")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fails_twice)
    store = open_store(str(tmp_path), RetryPolicy(first_delay=0.001))
    assert [entry.key for entry in store.list()] == ["a/1.jpg", "b/2.jpg"]
    assert not failures


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(errors.AccessDenied, match="Listing"):
        list(open_store(str(tmp_path)).list())


@pytest.mark.long
def test_listing_a_large_folder_tree_needs_little_memory(tmp_path: Path) -> None:
    for folder in range(40):
        (tmp_path / f"{folder:02d}").mkdir()
        for name in range(250):
            (tmp_path / f"{folder:02d}" / f"{name}.jpg").touch()
    tracemalloc.start()
    count = sum(1 for _ in LocalBackend(tmp_path).list("", lambda request: request()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 500_000  # bytes: one folder of 250, not the tree of 10,000


@pytest.fixture
def seaweed_url(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in seaweedfs.env.items():
        monkeypatch.setenv(name, value)
    return seaweedfs.fresh_url()


def test_s3_pages_are_read_one_at_a_time(seaweed_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(seaweed_url, QUICK)
    for i in range(25):
        store.put(f"{i:03d}", b"")
    asked: list[dict[str, Any]] = []
    call = store._backend._call

    def small_pages(method: str, **arguments: Any) -> dict[str, Any]:
        asked.append(arguments)
        return call(method, **arguments, MaxKeys=10)

    monkeypatch.setattr(store._backend, "_call", small_pages)
    listing = store.list()
    assert next(listing).key == "000"
    assert len(asked) == 1
    assert [entry.key for entry in listing] == [f"{i:03d}" for i in range(1, 25)]
    assert len(asked) == 3


def test_wrong_credentials_are_named_but_not_shown(seaweed_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-wrong-secret")
    with pytest.raises(errors.AccessDenied, match="credentials") as caught:
        open_store(seaweed_url, QUICK).get("k")
    assert "canary" not in repr(caught.value) + repr(caught.value.__cause__)


def test_missing_credentials_say_what_to_do(seaweed_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(errors.AccessDenied, match="credentials"):
        open_store(seaweed_url, QUICK).get("k")


def test_a_missing_bucket_and_a_dead_endpoint(seaweed_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.NotFound, match="bucket"):
        open_store("s3://there-is-no-such-bucket/p", QUICK).get("k")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(errors.StoreUnavailable, match="resumes"):
        open_store(seaweed_url, RetryPolicy(attempts=3, first_delay=0.001, budget=5)).get("k")
