"""Which files of a folder or prefix are photos. What is passed over is counted by why."""

from __future__ import annotations

import mimetypes
import os
import re
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from tasks.photos.formats import PhotoError, recognise
from tasks.store.errors import StoreError
from tasks.store.objects import Entry, Store

PHOTO_SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".heic", ".heif", ".hif", ".avif",
        ".gif", ".bmp", ".jp2",  # listed so that each gets a row that says what is wrong
    }
)  # fmt: skip
RAW_SUFFIXES = frozenset(
    {
        ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mos", ".mrw", ".nef", ".nrw", ".orf",
        ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
    }
)  # fmt: skip
"""Passed over by name: cameras write them beside the JPEG."""
SIDECAR_SUFFIXES = frozenset({".xmp", ".thm", ".aae", ".lrv", ".pp3", ".dop", ".db", ".ini"})
"""Passed over by name: cameras and editors write them beside the photo (a .thm is a small JPEG)."""
SERVICE_FOLDERS = frozenset(
    {
        "@eadir", "@recycle", "@recently-snapshot", "@tmp", "@__thumb", "@sharebin", "#recycle", "#snapshot", "__macosx",
        "$recycle.bin", "recycler", "lost+found", "system volume information", "_vti_cnf",
    }
)  # fmt: skip
"""Folders that servers and systems keep their own copies in; so are those whose names begin with a dot."""
HEAD = 64
"""Bytes from which a picture is told where the name does not say."""
HIDDEN_FOLDERS, HIDDEN_FILES = "in hidden or service folders", "hidden files"
NO_SUFFIX, OTHER = "without a suffix", "of other kinds"
PLAIN_SUFFIX = re.compile(r"\.[a-z0-9_-]{1,12}")
"""Suffixes that are counted by name; whoever fills a bucket can think of any number of others."""
LINKS, DANGLING = "links that lead out of the folder, or to folders", "links to nothing"
NO_FILES = "pipes, sockets and devices"


class PassedOver(Counter[str]):
    """How many files were passed over, by why."""

    def __str__(self) -> str:
        """A list for people, the most numerous first."""
        return ", ".join(f"{count} {why}" for why, count in self.most_common())


def photos_of(
    store: Store, passed: PassedOver, *, output: str | None = None, pattern: str | None = None
) -> Iterator[Entry]:
    """The photos under a store, in the store's order.

    ``output``: a prefix to leave out. ``pattern``: as in shells, over the whole key. Raises StoreError.
    """
    asked = frozenset((pattern or "").split("/"))
    for entry in store.list():
        if (output and entry.key.startswith(output)) or (pattern and not _fits(entry.key, pattern)):
            continue
        why = _why_not(entry, store, asked)
        if why is None:
            yield entry
        else:
            passed[why] += 1
    if store.location.scheme == "file":
        passed.update(_no_files(Path(store.location.path)))


def _fits(key: str, pattern: str) -> bool:
    """Whether a key fits a pattern; ``**/`` may stand for no folder at all."""
    return fnmatch(key, pattern) or fnmatch(key, pattern.replace("**/", ""))


def _why_not(entry: Entry, store: Store, asked: frozenset[str]) -> str | None:
    """Why a file is passed over, None for a photo. Hidden names that were ``asked`` for are not hidden."""
    *folders, name = entry.key.split("/")
    if any((folder.startswith(".") or folder.lower() in SERVICE_FOLDERS) and folder not in asked for folder in folders):
        return HIDDEN_FOLDERS
    if name.startswith("."):
        return HIDDEN_FILES
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in PHOTO_SUFFIXES:
        return None
    if suffix in RAW_SUFFIXES:
        return f"{suffix} (raw camera data)"
    kind = "sidecar" if suffix in SIDECAR_SUFFIXES else mimetypes.guess_type(name)[0]
    if (kind is None or kind.startswith("image/")) and _is_picture(entry, store):
        return None
    if not suffix:
        return NO_SUFFIX
    return suffix if PLAIN_SUFFIX.fullmatch(suffix) else OTHER


def is_photo(entry: Entry, store: Store) -> bool:
    """Whether a file is a photo by its name or by its content, also one that gets a row saying what is wrong."""
    return PurePosixPath(entry.key).suffix.lower() in PHOTO_SUFFIXES | RAW_SUFFIXES or _is_picture(entry, store)


def _is_picture(entry: Entry, store: Store) -> bool:
    """Whether a file's first bytes are a picture's, also of a kind that gets a row saying it is not supported."""
    if not entry.size:
        return False
    try:
        recognise(store.get_head(entry.name, HEAD))
    except PhotoError as error:
        return error.code == "unsupported-format"
    except StoreError:
        return False
    return True


def _no_files(root: Path) -> Counter[str]:
    """What lies below a folder and a listing of files does not show: links that it does not follow, pipes, devices."""
    inside = os.path.realpath(root) + os.sep
    passed = Counter[str]()
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)  # noqa: PTH118  pathlib would keep every name
            linked, exists = os.path.islink(path), os.path.exists(path)  # noqa: PTH110, PTH114
            if linked and (os.path.isdir(path) or not os.path.realpath(path).startswith(inside)):  # noqa: PTH112
                passed[LINKS] += 1
            elif linked and not exists:
                passed[DANGLING] += 1
            elif exists and not os.path.isfile(path) and not os.path.isdir(path):  # noqa: PTH112, PTH113
                passed[NO_FILES] += 1
    return passed
