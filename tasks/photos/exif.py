"""EXIF blocks edited where they stand, for maker notes hold offsets into them: nothing moves, nothing else changes."""

from __future__ import annotations

import struct

from tasks.photos import tiff_tags
from tasks.photos.tiff_tags import EXIF_IFD, GPS_IFD, LONG, SHORT, Directory, Entry, NewEntry, Order

PREFIX = b"Exif\0\0"
MAX_BYTES = 1 << 20
"""A larger block is dropped: no camera writes one."""
ORIENTATION = 0x0112
WIDTH, HEIGHT = 0xA002, 0xA003
MAKER_NOTE, USER_COMMENT = 0x927C, 0x9286
THUMBNAIL_START, THUMBNAIL_LENGTH = 0x0201, 0x0202
DESCRIPTIVE = frozenset({270, 271, 272, 274, 305, 306, 315, 316, 33432, EXIF_IFD, GPS_IFD})
"""Tags of a TIFF's first directory that describe the photograph; all others describe the layout of the file."""


class ExifBlock:
    """A block being cleaned. ``dropped`` names what went."""

    def __init__(self, block: bytes) -> None:
        """Take a copy. Raises ValueError if the block is too large or its first directory cannot be read."""
        if len(block) > MAX_BYTES:
            raise ValueError(f"it has {len(block):,} bytes")
        self.data = bytearray(block.removeprefix(PREFIX))
        self.order: Order = tiff_tags.byte_order(self.data)
        self.dropped: list[str] = []
        self.first = self._read(tiff_tags.first_place(self.data, self.order), "EXIF")

    def _read(self, place: int, name: str) -> Directory:
        """A directory; entries that cannot be read are taken out."""
        directory = tiff_tags.read_directory(self.data, place, self.order)
        if directory.broken:
            self.dropped += [f"{name} tag 0x{tag:04X} (damaged)" for tag in directory.broken]
            directory = self._keep(directory, directory.entries)
        return directory

    def _keep(self, directory: Directory, entries: tuple[Entry, ...]) -> Directory:
        """Write ``directory`` anew with only ``entries``, at its place; the values stay where they are."""
        table = b"".join(bytes(self.data[e.place : e.place + 12]) for e in entries)
        body = struct.pack(self.order + "H", len(entries)) + table + struct.pack(self.order + "I", directory.following)
        body = body[: directory.length].ljust(directory.length, b"\0")
        self.data[directory.place : directory.place + directory.length] = body
        return tiff_tags.read_directory(self.data, directory.place, self.order)

    def _below(self, tag: int) -> Directory | None:
        place = tiff_tags.integer(self.data, self.first.find(tag), self.order, 0)
        try:
            return self._read(place, "EXIF" if tag == EXIF_IFD else "GPS") if place else None
        except ValueError:
            return None

    @property
    def orientation(self) -> int | None:
        """1 to 8, or None where the block says nothing usable."""
        value = tiff_tags.integer(self.data, self.first.find(ORIENTATION), self.order, 0)
        return value if value in range(1, 9) else None

    def turn_upright(self, size: tuple[int, int]) -> None:
        """Orientation 1, and the pixel dimensions (height, width) of the upright picture, where they stand."""
        self.orient(1)
        if (inner := self._below(EXIF_IFD)) is not None:
            self._set(inner, HEIGHT, size[0])
            self._set(inner, WIDTH, size[1])

    def orient(self, value: int) -> None:
        """State an orientation where one stands."""
        self._set(self.first, ORIENTATION, value)

    def _set(self, directory: Directory, tag: int, value: int) -> None:
        entry = directory.find(tag)
        if entry is None:
            return
        kind, letter = (SHORT, "HH") if tag == ORIENTATION else (LONG, "I")
        values = (value, 0) if tag == ORIENTATION else (value,)
        struct.pack_into(f"{self.order}HHI{letter}", self.data, entry.place, tag, kind, 1, *values)

    def without_orientation(self) -> bytes:
        """The block with its prefix, without that tag."""
        self.first = self._keep(self.first, tuple(e for e in self.first.entries if e.tag != ORIENTATION))
        return PREFIX + bytes(self.data)

    def drop_thumbnail(self) -> None:
        """Cut off the second directory and blank the small picture that it points to."""
        if not self.first.following:
            return
        try:
            second = tiff_tags.read_directory(self.data, self.first.following, self.order)
        except ValueError:
            second = None
        if second is not None:
            numbers = [second.find(THUMBNAIL_START), second.find(THUMBNAIL_LENGTH)]
            start, length = (tiff_tags.integer(self.data, entry, self.order, 0) for entry in numbers)
            if self.data[start : start + 2] == b"\xff\xd8":
                self._blank(start, length)
            self.dropped.append("the thumbnail of the old picture")
        end = self.first.place + self.first.length
        struct.pack_into("4s", self.data, end - 4, bytes(4))
        self.first = tiff_tags.read_directory(self.data, self.first.place, self.order)

    def drop_location(self) -> None:
        """Take out the GPS directory, and the maker notes: some cameras write place names there."""
        if (gps := self._below(GPS_IFD)) is not None:
            for entry in gps.entries:
                self._blank(entry.start, entry.size)
            self._blank(gps.place, gps.length)
        self.first = self._keep(self.first, tuple(e for e in self.first.entries if e.tag != GPS_IFD))
        self.drop_maker_note()

    def drop_maker_note(self) -> None:
        """Take out the camera's own notes."""
        inner = self._below(EXIF_IFD)
        note = None if inner is None else inner.find(MAKER_NOTE)
        if inner is not None and note is not None:
            self._blank(note.start, note.size)
            self._keep(inner, tuple(e for e in inner.entries if e.tag != MAKER_NOTE))

    def _blank(self, start: int, length: int) -> None:
        length = max(0, min(length, len(self.data) - start))
        self.data[start : start + length] = bytes(length)

    def entries(self) -> list[NewEntry]:
        """The descriptive tags without the orientation, ready for another structure."""
        return tiff_tags.copied(self.data, self.first, self.order, DESCRIPTIVE - {ORIENTATION})

    def compact(self) -> bytes:
        """The block written anew without gaps and without maker notes, where the block as it stands is too long."""
        self.drop_maker_note()
        return PREFIX + tiff_tags.structure(tiff_tags.copied(self.data, self.first, self.order, None), self.order)

    def tobytes(self) -> bytes | None:
        """The block with its prefix, None if no tag is left."""
        return PREFIX + bytes(self.data) if self.first.entries else None


def with_orientation(block: bytes | None, orientation: int) -> bytes:
    """A block that states ``orientation``: ``block`` where it has the tag and can be read, else one of that tag alone."""
    try:
        found = ExifBlock(block or b"")
    except ValueError:
        found = None
    if found is None or found.first.find(ORIENTATION) is None:
        return PREFIX + tiff_tags.structure(tiff_tags.packed("<", {ORIENTATION: (SHORT, (orientation,))}), "<")
    found.orient(orientation)
    return PREFIX + bytes(found.data)


def block_of_tiff(data: bytes) -> bytes | None:
    """The descriptive tags of a TIFF file's first page as an EXIF block, None where there are none."""
    order = tiff_tags.byte_order(data)
    first = tiff_tags.read_directory(data, tiff_tags.first_place(data, order), order)
    entries = [e for e in tiff_tags.copied(data, first, order, DESCRIPTIVE) if len(e.value) <= MAX_BYTES // 4]
    return PREFIX + tiff_tags.structure(entries, order) if entries else None
