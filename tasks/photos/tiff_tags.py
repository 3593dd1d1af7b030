"""The directories of a TIFF or EXIF structure, entry by entry, in linear time and whatever types the entries claim."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Order = Literal["<", ">"]
"""Byte order in struct's notation."""

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""Bytes of one value by TIFF type."""
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 1, 2, 3, 4, 5, 7
INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I"}
MAX_ENTRIES = 1000
MAX_PAGES = 10_000
SUB_IFDS, EXIF_IFD, GPS_IFD, INTEROP_IFD = 330, 0x8769, 0x8825, 0xA005


@dataclass(frozen=True)
class Entry:
    """One tag: where its 12 bytes stand (``place``), type, number of values, and the values as they stand."""

    place: int
    tag: int
    kind: int
    count: int
    start: int
    """Where the values begin in the structure."""
    size: int
    """Bytes of all values."""

    def raw(self, data: bytes | bytearray) -> bytes:
        """The bytes of the values."""
        return bytes(data[self.start : self.start + self.size])


@dataclass(frozen=True)
class Directory:
    """One directory: its entries that can be read, how many cannot, and where the next begins (0 = none)."""

    place: int
    entries: tuple[Entry, ...]
    broken: tuple[int, ...]
    """Tags whose type is unknown or whose values lie outside."""
    length: int
    """Bytes of the directory itself, without the values kept elsewhere."""
    following: int

    def find(self, tag: int) -> Entry | None:
        """The first entry of a tag."""
        return next((entry for entry in self.entries if entry.tag == tag), None)


def byte_order(data: bytes | bytearray) -> Order:
    """Of a TIFF structure. Raises ValueError if it is none."""
    for mark, order in ((b"II*\0", "<"), (b"MM\0*", ">")):
        if data[:4] == mark:
            return order  # type: ignore[return-value]
    raise ValueError("no TIFF structure")


def first_place(data: bytes | bytearray, order: Order) -> int:
    """Where the first directory begins."""
    return int(struct.unpack_from(order + "I", data, 4)[0]) if len(data) >= 8 else 0


def read_directory(data: bytes | bytearray, place: int, order: Order) -> Directory:
    """The directory at ``place``, cut off where the data or ``MAX_ENTRIES`` end. Raises ValueError if none is there."""
    if not 8 <= place <= len(data) - 2:
        raise ValueError("the directory lies outside the file")
    (claimed,) = struct.unpack_from(order + "H", data, place)
    count = min(claimed, (len(data) - place - 2) // 12, MAX_ENTRIES)
    entries, broken = [], []
    for at in range(place + 2, place + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, at)
        size = SIZES.get(kind, 0) * number
        start = at + 8 if size <= 4 else int(struct.unpack_from(order + "I", data, at + 8)[0])
        if not size or start + size > len(data):
            broken.append(tag)
        else:
            entries.append(Entry(at, tag, kind, number, start, size))
    end = place + 2 + 12 * count
    following = struct.unpack_from(order + "I", data, end)[0] if end + 4 <= len(data) and count == claimed else 0
    return Directory(place, tuple(entries), tuple(broken), min(12 * count + 6, len(data) - place), following)


def integers(data: bytes | bytearray, entry: Entry | None, order: Order) -> tuple[int, ...]:
    """The values of an entry of unsigned integers; none if it is missing or of another type."""
    if entry is None or entry.kind not in INTEGERS or entry.count > MAX_ENTRIES:
        return ()
    return struct.unpack(f"{order}{entry.count}{INTEGERS[entry.kind]}", entry.raw(data))


def integer(data: bytes | bytearray, entry: Entry | None, order: Order, default: int) -> int:
    """The first value of an entry of unsigned integers, else ``default``."""
    return next(iter(integers(data, entry, order)), default)


def pages(data: bytes, order: Order) -> Iterator[Directory]:
    """The chained directories of a TIFF file, each once."""
    place, seen = first_place(data, order), set[int]()
    while place and place not in seen and len(seen) < MAX_PAGES:
        seen.add(place)
        directory = read_directory(data, place, order)
        yield directory
        place = directory.following


def children(data: bytes | bytearray, directory: Directory, order: Order) -> Iterator[tuple[int, Directory]]:
    """(tag, directory) of the directories that entries of ``directory`` point to; those that cannot be read are not."""
    for tag in (EXIF_IFD, GPS_IFD, INTEROP_IFD, SUB_IFDS):
        for place in integers(data, directory.find(tag), order)[:16]:
            try:
                yield tag, read_directory(data, place, order)
            except ValueError:
                continue


def claimed_bytes(data: bytes, order: Order) -> int:
    """Bytes of values that all directories of a TIFF file claim together: more than the file has is no honest file."""
    total = 0
    for page in pages(data, order):
        inner = [below for _, below in children(data, page, order)]
        total += sum(entry.size for directory in (page, *inner) for entry in directory.entries)
    return total


@dataclass(frozen=True)
class NewEntry:
    """A tag to write: values as bytes in the structure's order, or a directory below."""

    tag: int
    kind: int
    count: int
    value: bytes = b""
    below: tuple[NewEntry, ...] | None = None


def copied(data: bytes | bytearray, directory: Directory, order: Order, tags: Iterable[int] | None) -> list[NewEntry]:
    """Entries of ``directory`` ready to be written elsewhere (all, or those in ``tags``), with the directories below."""
    wanted = None if tags is None else set(tags)
    below = {tag: child for tag, child in children(data, directory, order) if tag != SUB_IFDS}
    found, budget = [], len(data)
    for entry in directory.entries:
        budget -= entry.size
        if budget < 0:  # values that overlap: the copy would be larger than the file
            break
        if entry.tag in below:
            inner = copied(data, below[entry.tag], order, None) if entry.tag != INTEROP_IFD else []
            new = NewEntry(entry.tag, LONG, 1, below=tuple(inner)) if inner else None
        else:
            new = NewEntry(entry.tag, entry.kind, entry.count, entry.raw(data))
        if new is not None and (wanted is None or entry.tag in wanted) and entry.tag != SUB_IFDS:
            found.append(new)
    return found


def packed(order: Order, values: Mapping[int, tuple[int, Any]]) -> list[NewEntry]:
    """Entries from {tag: (type, values)}; values are bytes or a sequence of integers (numerators and denominators)."""
    entries = []
    for tag, (kind, given) in values.items():
        if isinstance(given, bytes):
            entries.append(NewEntry(tag, kind, len(given), given))
        else:
            letter = "I" if kind == RATIONAL else INTEGERS[kind]
            count = len(given) // 2 if kind == RATIONAL else len(given)
            entries.append(NewEntry(tag, kind, count, struct.pack(f"{order}{len(given)}{letter}", *given)))
    return entries


def structure(entries: Iterable[NewEntry], order: Order) -> bytes:
    """A TIFF structure of one directory, and those below it, sorted by tag; the first entry of a tag counts."""
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return header + _directory(entries, order, 8)


def _directory(entries: Iterable[NewEntry], order: Order, place: int) -> bytes:
    first = dict[int, NewEntry]()
    for entry in entries:
        first.setdefault(entry.tag, entry)
    table, values = struct.pack(order + "H", len(first)), b""
    free = place + 2 + 12 * len(first) + 4
    for entry in sorted(first.values(), key=lambda e: e.tag):
        value = entry.value
        if entry.below is not None:
            value = struct.pack(order + "I", free + len(values))
            values += _even(_directory(entry.below, order, free + len(values)))
        elif len(value) > 4:
            value = struct.pack(order + "I", free + len(values))
            values += _even(entry.value)
        table += struct.pack(order + "HHI", entry.tag, entry.kind, entry.count) + value.ljust(4, b"\0")
    return table + bytes(4) + values


def _even(value: bytes) -> bytes:
    return value + bytes(len(value) % 2)
