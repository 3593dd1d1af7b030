"""What there is to do: the photos of a folder, a glob, an object-store prefix or a manifest, one entry each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from tasks.photos.listing import PHOTO_SUFFIXES, PassedOver, is_photo, photos_of
from tasks.photos.manifests import MANIFEST_SUFFIXES, is_manifest, read_manifest
from tasks.store.access import SOURCE_ONLY, Access
from tasks.store.errors import InvalidLocation, NotFound
from tasks.store.objects import open_store, stat_uri, store_of
from tasks.store.uris import WEB, parse

WILD = "*?["
ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"})
WHAT = "folder, bucket prefix, glob, photo, or manifest (.csv, .jsonl, .parquet, .json)"


def list_photos(
    source: str, *, output: str | None = None, access: Access = SOURCE_ONLY, passed: PassedOver | None = None
) -> Iterator[dict[str, Any]]:
    """Entries in ``PLAN``'s columns (without shard and row) for every photo of ``source``, in a stable order.

    ``source``: a folder or prefix, one photo, a glob such as ``photos/2024-*/*.jpg``, or a manifest (CSV, JSONL,
    PIE-Bench's mapping_file.json; Parquet, also a folder or glob of it, and with the pictures in it). A path that exists
    is taken literally before it is a pattern. Photos under
    ``output`` are left out. ``passed`` counts the files passed over. Raises ``NotFound`` or ``ValueError`` with a
    sentence that names the fix, also when there is no photo at all.
    """
    passed = PassedOver() if passed is None else passed
    found = False
    for entry in _entries(source, output, access, passed):
        found = True
        yield entry
    if not found:
        rest = f" Passed over: {passed}." if passed else ""
        rest += f" For photos in Parquet tables give {source.rstrip('/')}/*.parquet." if passed[".parquet"] else ""
        raise NotFound(f"{source} holds no photo: check the path, or the bucket and prefix.{rest}")


def _entries(source: str, output: str | None, access: Access, passed: PassedOver) -> Iterator[dict[str, Any]]:
    match _literally(source):
        case "folder" if source.rstrip("/").lower().endswith(".parquet"):
            yield from read_manifest(source, access)
        case "folder":
            yield from _folder(source, output, passed)
        case "file" if is_manifest(source):
            yield from read_manifest(source, access)
        case "file":
            yield _single(source, access)
        case _ if any(c in source for c in WILD):
            base, pattern = _split_pattern(source)
            if pattern.lower().endswith(".parquet"):
                yield from read_manifest(base, access, pattern)
                return
            yield from _folder(base, output, passed, pattern)
        case _:
            raise NotFound(f"{source} does not exist: check the path, or the bucket and prefix")


def _literally(source: str) -> Literal["file", "folder", None]:
    """What ``source`` is when nothing in it is a pattern; None if there is nothing of that name."""
    location = parse(source)
    if location.scheme in WEB:
        return "file"
    if location.scheme == "file":
        return _on_disk(Path(location.path), source)
    suffix = PurePosixPath(location.path).suffix.lower()
    may_be_file = suffix in PHOTO_SUFFIXES | MANIFEST_SUFFIXES | ARCHIVES | {".txt"} or any(c in source for c in WILD)
    if may_be_file and stat_uri(location) is not None:
        return "file"
    if may_be_file and next(open_store(source).list(), None) is None:
        return None
    return "folder"


def _on_disk(path: Path, source: str) -> Literal["file", "folder", None]:
    if path.is_dir():
        return "folder"
    if not os.path.lexists(path):
        return None
    if not path.is_file():
        raise InvalidLocation(f"{source} is no file and no folder: give a {WHAT}")
    return "file"


def _refuse_lists(source: str) -> None:
    """Say what to do with files that hold photos in another way."""
    suffix = PurePosixPath(source).suffix.lower()
    if suffix in ARCHIVES:
        raise InvalidLocation(f"{source} is an archive or compressed: unpack it, and give the folder or manifest in it")
    if suffix == ".txt":
        raise InvalidLocation(f"{source} is a plain list: write 'path' as its first line and name it .csv")


def _folder(
    source: str, output: str | None, passed: PassedOver, pattern: str | None = None
) -> Iterator[dict[str, Any]]:
    store = open_store(source)
    root = store.address("").uri
    inside = None if output is None else (parse(output) / "").uri
    left_out = inside[len(root) :] if inside and inside.startswith(root) else None
    for entry in photos_of(store, passed, output=left_out, pattern=pattern):
        yield {"key": entry.key, "uri": store.address(entry.name).uri, "size": entry.size, "etag": entry.etag}


def _split_pattern(source: str) -> tuple[str, str]:
    """The folder that a glob begins in, and the pattern below it; a part that exists as it stands is no pattern."""
    parts = source.split("/")
    first = 0
    while not any(c in parts[first] for c in WILD) or _literally("/".join(parts[: first + 1])) == "folder":
        first += 1
    base = "/".join(parts[:first]) or ("/" if source.startswith("/") else ".")
    return base, "/".join(parts[first:])


def _single(source: str, access: Access) -> dict[str, Any]:
    location = parse(source)
    if location.scheme in WEB:
        access.require(location)
        return {"key": location.name, "uri": location.uri}
    _refuse_lists(source)
    entry = stat_uri(location)
    if entry is None:
        raise NotFound(f"{source} does not exist: check the path")
    if location.cell is None and not is_photo(entry, store_of(location)[0]):
        raise InvalidLocation(f"{source} is no photo and no manifest: give a {WHAT}")
    key = location.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # as a listing has it
    return {"key": key, "uri": location.uri, "size": entry.size, "etag": entry.etag}
