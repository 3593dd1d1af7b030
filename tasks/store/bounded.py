"""Reading no more bytes and no longer than was agreed, and of files only those that are files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from tasks.store.errors import InvalidLocation, TooLarge, TooSlow
from tasks.store.uris import Shown

PIECE = 4 * 2**20
"""Bytes asked for at a time."""
MAX_BYTES = 2 * 2**30
"""Bytes of one object that are read where the reader names no limit of its own."""


def read_pieces(read: Callable[[int], bytes], max_bytes: int, shown: Shown, left: Callable[[], float]) -> bytes:
    """All that ``read`` gives, at most ``max_bytes``; ``left`` says how many seconds there are.

    Raises TooLarge or TooSlow.
    """
    pieces, size = list[bytes](), 0
    while piece := read(min(PIECE, max_bytes + 1 - size)):
        pieces.append(piece)
        size += len(piece)
        if size > max_bytes:
            raise too_large(shown, max_bytes)
        if left() <= 0:
            raise TooSlow(f"Reading {shown}: {size} bytes arrived before the deadline of one object, and not all")
    return b"".join(pieces)


def too_large(shown: Shown, max_bytes: int) -> TooLarge:
    """The error for an object of more than ``max_bytes``."""
    return TooLarge(f"{shown} holds more than the {max_bytes:,} bytes that are read of one object")


def open_regular(path: Path) -> int:
    """A descriptor of a regular file, to be closed. Devices and pipes, which may never end, are not even opened.

    Raises:
        InvalidLocation: if it is none.
        OSError: as the system says.
    """
    _require_regular(path.stat().st_mode, path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_regular(os.fstat(descriptor).st_mode, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path.name)
    if not stat.S_ISREG(mode):
        raise InvalidLocation(f"{path.name!r} is a device, pipe or socket, not a file: name a regular file")
