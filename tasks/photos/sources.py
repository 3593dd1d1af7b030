"""What there is to do: the photos of a folder, a glob, an object-store prefix or a manifest, one entry each."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

from tasks.photos.manifests import MANIFEST_SUFFIXES, read_manifest
from tasks.store.access import SOURCE_ONLY, Access
from tasks.store.errors import NotFound
from tasks.store.objects import open_store
from tasks.store.uris import WEB, parse

PHOTO_SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".png", ".webp", ".tif", ".tiff",
    ".gif", ".bmp", ".heic", ".heif", ".avif", ".jp2",  # listed so that each gets a row that says what is wrong
}  # fmt: skip


def list_photos(source: str, *, output: str | None = None, access: Access = SOURCE_ONLY) -> Iterator[dict[str, Any]]:
    """Entries in ``PLAN``'s columns (without shard and row) for every photo of ``source``, in a stable order.

    ``source``: a folder or prefix, one photo, a glob such as ``photos/2024-*/*.jpg``, or a manifest (CSV, JSONL,
    Parquet, PIE-Bench's mapping_file.json). Photos under ``output`` are left out. Raises ``NotFound`` or ``ValueError``
    with a sentence that names the fix.
    """
    suffix = PurePosixPath(source).suffix.lower()
    if suffix in MANIFEST_SUFFIXES:
        yield from read_manifest(source, access)
    elif any(c in source for c in "*?["):
        yield from _glob(source, output)
    elif suffix in PHOTO_SUFFIXES:
        yield _single(source, access)
    else:
        yield from _folder(source, output)


def _folder(source: str, output: str | None, pattern: str | None = None) -> Iterator[dict[str, Any]]:
    store = open_store(source)
    root = parse(source).uri.rstrip("/") + "/"
    inside = None if output is None else parse(output).uri.rstrip("/") + "/"
    skipped = inside[len(root) :] if inside and inside.startswith(root) else None
    found = False
    for entry in store.list():
        found = True
        name = PurePosixPath(entry.key)
        if name.suffix.lower() not in PHOTO_SUFFIXES or name.name.startswith("."):
            continue
        if (skipped and entry.key.startswith(skipped)) or (pattern and not fnmatch(entry.key, pattern)):
            continue
        yield {"key": entry.key, "uri": store.address(entry.key).uri, "size": entry.size, "etag": entry.etag}
    if not found:
        raise NotFound(f"{source} does not exist or is empty: check the path, or the bucket and prefix")


def _glob(source: str, output: str | None) -> Iterator[dict[str, Any]]:
    parts = source.split("/")
    first = next(i for i, part in enumerate(parts) if any(c in part for c in "*?["))
    base = "/".join(parts[:first]) or ("/" if source.startswith("/") else ".")
    yield from _folder(base, output, "/".join(parts[first:]))


def _single(source: str, access: Access) -> dict[str, Any]:
    location = parse(source)
    parent, _, name = source.rpartition("/")
    if location.scheme in WEB:
        access.require(location)
        return {"key": location.name, "uri": location.uri}
    entry = open_store(parent or ".").stat(name)
    if entry is None:
        raise NotFound(f"{source} does not exist: check the path")
    return {"key": name, "uri": location.uri, "size": entry.size, "etag": entry.etag}
