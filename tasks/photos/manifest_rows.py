"""What a line of a manifest is, however it was written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_TEXT = 100_000
"""Characters of one value."""
PLACES = (
    "uri", "url", "path", "file", "file_name", "filename", "image_path", "image_url", "source_uri", "image", "file_path",
    "filepath", "imagepath", "image_file", "image_name", "img", "img_path", "photo", "picture", "key",
)  # fmt: skip
"""Columns that may name the photo, the first that is there counts."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Broken:
    """A line that cannot be read, and why."""

    reason: str


@dataclass(frozen=True)
class Inside:
    """A picture that a table holds itself: its column, its row from 0, and the path it once had."""

    column: str
    row: int
    path: str | None


def column_name(name: Any) -> str:
    """A column's name in lower case, with ``_`` for blanks and hyphens."""
    return "_".join(str(name).strip().lower().replace("-", " ").split())


def brief(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
