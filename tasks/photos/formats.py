"""What kind of file some bytes are, told from their first bytes, and errors that say what to do about it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class PhotoError(ValueError):
    """A file that is not a photograph we can process. ``code`` is one word for tables, the message names the fix."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


CODES = (
    "animated",
    "damaged",
    "empty-file",
    "inconsistent-size",
    "multi-page",
    "not-an-image",
    "panorama",
    "too-large",
    "too-many-pixels",
    "truncated",
    "unsupported-format",
    "unsupported-mode",
    "video",
)
"""Every code ``decode_photo`` can give."""

SUPPORTED = ((b"\xff\xd8\xff", "jpeg"), (PNG_SIGNATURE, "png"), (b"II*\0", "tiff"), (b"MM\0*", "tiff"))
FOREIGN = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"8BPS", "a Photoshop document"),
    (b"%PDF", "a PDF"),
    (b"II+\0", "a BigTIFF"),
    (b"MM\0+", "a BigTIFF"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"FUJIFILM", "raw camera data"),
    (b"IIU\0", "raw camera data"),
)
VIDEO = (b"\x1a\x45\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"FLV\x01")
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"heif"})
AVIF_BRANDS = frozenset({b"avif", b"avis"})
NAMES = "JPEG, PNG, WebP, TIFF, HEIC or AVIF"


def recognise(data: bytes) -> str:
    """jpeg, png, webp, tiff, heic or avif. Raises PhotoError (not-an-image, unsupported-format, video) for others."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[8:10] == b"CR" and data[:4] == b"II*\0":
        raise _foreign("raw camera data")
    for magic, kind in SUPPORTED:
        if data.startswith(magic):
            return kind
    for magic, name in FOREIGN:
        if data.startswith(magic):
            raise _foreign(name)
    if (still := _still_brand(data)) is not None:
        return still
    if data[4:8] in (b"ftyp", b"moov") or data.startswith(VIDEO) or (data[:4] == b"RIFF" and data[8:12] == b"AVI "):
        raise PhotoError("video", "This is a video. Videos are out of scope: extract the frames as pictures first.")
    raise PhotoError("not-an-image", f"This is no picture file. Use {NAMES}.")


def _still_brand(data: bytes) -> str | None:
    """heic or avif by the brands of an ISO base media file, None for others."""
    if data[4:8] != b"ftyp":
        return None
    if data[8:12] == b"crx ":
        raise _foreign("raw camera data")
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[i : i + 4] for i in range(16, end, 4))}
    if data[8:12] in AVIF_BRANDS or (data[8:12] == b"mif1" and brands & AVIF_BRANDS):
        return "avif"
    return "heic" if data[8:12] in HEIC_BRANDS or (data[8:12] in (b"mif1", b"msf1") and brands & HEIC_BRANDS) else None


def nclx_place(data: bytes | bytearray) -> int | None:
    """Where an AVIF or HEIC file states its colours by numbers (ISO 23091-2): two bytes of primaries, two of transfer.

    That is the first ``colr`` box of kind ``nclx`` in meta/iprp/ipco, which is the picture's own: those of alpha and gain
    map follow it. None if there is none.
    """
    start, end = 0, len(data)
    for name, header in ((b"meta", 12), (b"iprp", 8), (b"ipco", 8)):
        found = next((box for box in _boxes(data, start, end) if box[0] == name), None)
        if found is None:
            return None
        start, end = found[1] + header, found[2]
    places = (at + 12 for name, at, stop in _boxes(data, start, end) if name == b"colr" and stop - at >= 18)
    return next((place for place in places if data[place - 4 : place] == b"nclx"), None)


def _boxes(data: bytes | bytearray, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte, byte after the last) of the boxes of an ISO base media file, until the first broken one."""
    while start + 8 <= end:
        size = int.from_bytes(data[start : start + 4], "big")
        if size < 8 or start + size > end:  # 0 and 1, to the end and beyond 4 GiB, are for pixels, which come last
            return
        yield bytes(data[start + 4 : start + 8]), start, start + size
        start += size


def _foreign(name: str) -> PhotoError:
    return PhotoError("unsupported-format", f"This is {name}. Save it as {NAMES}.")


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of each chunk of a PNG file, pixel data left out, until the end or the first broken chunk."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        (length,), name = struct.unpack_from(">I", data, position), data[position + 4 : position + 8]
        if name not in (b"IDAT", b"fdAT"):
            yield name, data[position + 8 : position + 8 + length]
        position += 12 + length


PNG_SHOWING = frozenset({b"tRNS", b"iCCP", b"cICP", b"gAMA", b"cHRM", b"sRGB", b"eXIf", b"acTL", b"fcTL", b"fdAT"})
"""Chunks that need not be there and say how the picture is shown: damage to them is damage to it."""


def sound_png(data: bytes) -> tuple[bytes, list[str]]:
    """A PNG file without chunks that only tell about it and whose checksums are wrong; what these are called."""
    position, start, kept, broken = len(PNG_SIGNATURE), 0, list[bytes](), list[str]()
    while position + 12 <= len(data):
        (length,), name = struct.unpack_from(">I", data, position), data[position + 4 : position + 8]
        end = position + 12 + length
        tells = name.isalpha() and name[:1].islower() and name not in PNG_SHOWING and end <= len(data)
        if tells and zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            kept.append(data[start:position])
            broken.append(f"chunk {name.decode()} (damaged)")
            start = end
        position = end
    return (b"".join([*kept, data[start:]]), broken) if broken else (data, broken)


def webp_chunks(data: bytes) -> Iterator[bytes]:
    """The names of a WebP file's chunks."""
    position = 12
    while position + 8 <= len(data):
        yield data[position : position + 4]
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + length + length % 2


def webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a WebP file from its header. Raises PhotoError (truncated, damaged)."""
    if len(data) < max(30, 8 + int.from_bytes(data[4:8], "little")):
        raise PhotoError("truncated", "The file ends before the picture does. Copy or download it again.")
    match data[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    raise PhotoError("damaged", "The WebP header is damaged. Open the file in an editor and export it again.")
