"""Where each container keeps its metadata: found, not judged."""

from __future__ import annotations

import binascii
import math
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from tasks.photos import photoshop, tiff_tags, xmp
from tasks.photos.exif import PREFIX, block_of_tiff
from tasks.photos.formats import PhotoError, nclx_place, png_chunks, webp_chunks
from tasks.photos.metadata import Chunk, Found

XMP_SIGNATURE = b"http://ns.adobe.com/xap/1.0/\0"
EXTENSION_SIGNATURE = b"http://ns.adobe.com/xmp/extension/\0"
COLOUR_CHUNKS = frozenset({b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI"})
PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IEND", b"tRNS", b"iCCP", b"eXIf", b"pHYs", b"tEXt", b"zTXt", b"iTXt"})
WEBP_CHUNKS = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP "})
KNOWN_SEGMENTS = {0xE2: (b"ICC_PROFILE\0",), 0xEE: (b"Adobe",)}
"""Segments that are read elsewhere."""
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""Of a JPEG: no stuffed byte, no fill byte, no restart in the midst of pixels."""
MAX_SEGMENTS = 32 << 20
"""Bytes of metadata in a JPEG: no honest file has so many."""
MAX_TEXT = 1 << 20
"""Bytes of one PNG text."""
MAX_TEXTS = 100
XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG, ICC_TAG = 700, 33723, 34377, 34675


def find_metadata(kind: str, image: Any, data: bytes) -> Found:
    """The metadata of a file whose header ``image`` (Pillow's) holds."""
    match kind:
        case "jpeg":
            return _of_jpeg(image, data)
        case "png":
            return _of_png(image, data)
        case "tiff":
            return _of_tiff(data)
        case _:
            info = {name: image.info.get(name) for name in ("exif", "icc_profile", "xmp")}
            exif, icc, packet = (value if isinstance(value, bytes) and value else None for value in info.values())
            several = kind in ("heic", "avif") and bool(image.info.get("aux") or image.info.get("depth_images"))
            others = tuple(_named("chunk", name) for name in webp_chunks(data) if name not in WEBP_CHUNKS)
            return Found(
                exif,
                icc,
                packet,
                colour=_nclx(data),
                other_pictures=several,
                others=others if kind == "webp" else (),
            )


def _named(what: str, name: bytes) -> str:
    """A segment or chunk, with as much of its name as is a word."""
    word = re.match(rb"[\w .:-]{0,24}", name)
    return f"{what} {word[0].decode().strip()}".strip() if word else what


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of the application segments and comments of a JPEG before its pixels.

    Raises PhotoError (too-large) for an absurd amount.
    """
    position, total = 2, 0
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xDA:  # the pixels
            return
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            total += length
            if total > MAX_SEGMENTS:
                raise PhotoError(
                    "too-large", f"The file holds over {MAX_SEGMENTS >> 20} MiB of metadata. Export it again."
                )
            yield marker, data[position + 4 : position + 2 + length]
        position += 2 + max(length, 2)


def has_jpeg_end(data: bytes) -> bool:
    """Whether a decoder that reads a JPEG from its start finds the marker of its end."""
    position = 2
    while found := MARKER.search(data, position):
        marker, position = data[found.end() - 1], found.end()
        if marker == 0xD9:
            return True
        if marker != 0x01:  # which has no content
            position += max(int.from_bytes(data[position : position + 2], "big"), 2)
    return False


def _of_jpeg(image: Any, data: bytes) -> Found:
    exif = packet = dpi = None
    extension, resources, comments, several = dict[bytes, list[tuple[int, bytes]]](), [], [], False
    others = list[str]()
    for marker, content in jpeg_segments(data):
        if marker == 0xE1 and content.startswith(PREFIX):
            others += ["a second EXIF block"] if exif else []
            exif = exif or content
        elif marker == 0xE1 and content.startswith(XMP_SIGNATURE):
            others += ["a second XMP packet"] if packet else []
            packet = packet or content[len(XMP_SIGNATURE) :]
        elif marker == 0xE1 and content.startswith(EXTENSION_SIGNATURE) and len(content) >= 75:
            guid, (offset,) = content[35:67], struct.unpack_from(">I", content, 71)
            extension.setdefault(guid, []).append((offset, content[75:]))
        elif marker == 0xE2 and content.startswith(b"MPF\0"):
            several = True
        elif marker == 0xED and content.startswith(photoshop.SIGNATURE):
            resources.append(content[len(photoshop.SIGNATURE) :])
        elif marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 12:
            unit, across, down = struct.unpack_from(">BHH", content, 7)
            dpi = {1: (across, down), 2: (across * 2.54, down * 2.54)}.get(unit)
        elif marker == 0xFE and content.strip(b"\0 "):
            comments.append(content)
        elif marker != 0xFE and not content.startswith(KNOWN_SEGMENTS.get(marker, ())):
            others.append(_named(f"segment APP{marker - 0xE0}", content))
    icc = image.info.get("icc_profile")
    return Found(
        exif, icc or None, packet, _joined_extension(packet, extension), b"".join(resources) or None,
        tuple(comments), dpi=_positive(dpi), other_pictures=several, others=tuple(others),
    )  # fmt: skip


def _joined_extension(packet: bytes | None, extension: dict[bytes, list[tuple[int, bytes]]]) -> bytes | None:
    """The extended packet that the standard one names, its parts in order."""
    parts = next((parts for guid, parts in extension.items() if packet and guid in packet), None)
    if parts is None:
        return None
    return b"".join(part for _, part in sorted(parts))[: xmp.MAX_BYTES + 1]


def _of_png(image: Any, data: bytes) -> Found:
    exif = dpi = packet = resources = None
    comments, texts, colour, others = list[bytes](), list[Chunk](), list[Chunk](), list[str]()
    for name, content in png_chunks(data):
        if name == b"eXIf":
            exif = exif or PREFIX + content.removeprefix(PREFIX)
        elif name == b"pHYs" and len(content) == 9 and content[8] == 1:
            dpi = tuple(n * 0.0254 for n in struct.unpack_from(">II", content))
        elif name in COLOUR_CHUNKS and len(content) <= 64 and name not in dict(colour):
            colour.append((name, content))
        elif name in (b"tEXt", b"zTXt", b"iTXt") and len(texts) < MAX_TEXTS:
            keyword, text = _png_text(name, content)
            if keyword == b"XML:com.adobe.xmp":
                packet = packet or text
            elif keyword in (b"Raw profile type exif", b"Raw profile type APP1"):
                profile = _raw_profile(text)
                if profile.startswith(XMP_SIGNATURE):
                    packet = packet or profile[len(XMP_SIGNATURE) :]
                elif profile:
                    exif = exif or PREFIX + profile.removeprefix(PREFIX)
            elif keyword == b"Raw profile type xmp":
                packet = packet or _raw_profile(text) or None
            elif keyword in (b"Raw profile type iptc", b"Raw profile type 8bim"):
                profile = _raw_profile(text)
                resources = profile if profile.startswith(b"8BIM") else photoshop.block(photoshop.IPTC, profile)
            elif keyword == b"Comment" and len(text) <= MAX_TEXT:
                comments.append(text if name == b"iTXt" else text.decode("latin-1").encode())
            elif keyword and not keyword.startswith(b"Raw profile type"):
                texts.append((name, content))
        elif name not in PNG_CHUNKS | COLOUR_CHUNKS:
            others.append(_named("chunk", name))
    icc = image.info.get("icc_profile")
    return Found(
        exif, icc if isinstance(icc, bytes) and icc else None, packet, None, resources,
        tuple(comments), tuple(texts), _positive(dpi), tuple(colour), others=tuple(others),
    )  # fmt: skip


def _png_text(name: bytes, content: bytes) -> tuple[bytes, bytes]:
    """Keyword and text, unpacked within ``MAX_TEXT``; both empty if damaged or longer."""
    keyword, _, rest = content.partition(b"\0")
    if name == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
    else:
        packed = name == b"zTXt"
        rest = rest[1:] if packed else rest
    if not packed:
        return (keyword, rest) if len(rest) <= xmp.MAX_BYTES else (b"", b"")
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(rest, MAX_TEXT)
    except zlib.error:
        return b"", b""
    return (keyword, text) if unpacker.eof else (b"", b"")


def _raw_profile(text: bytes) -> bytes:
    """ImageMagick's convention: a name, a length and the profile in hexadecimal, on lines. Empty if it is not so."""
    parts = text.strip().split(b"\n", 2)
    try:
        return binascii.unhexlify(b"".join(parts[2].split())) if len(parts) == 3 else b""
    except binascii.Error:
        return b""


def _of_tiff(data: bytes) -> Found:
    order = tiff_tags.byte_order(data)
    first = tiff_tags.read_directory(data, tiff_tags.first_place(data, order), order)
    raw = {tag: entry.raw(data) for tag in (XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG, ICC_TAG) if (entry := first.find(tag))}
    resources = raw.get(PHOTOSHOP_TAG)
    statements = raw.get(IPTC_TAG, b"").rstrip(b"\0")
    if statements and photoshop.iptc(resources or b"") is None:
        resources = photoshop.block(photoshop.IPTC, statements) + (resources or b"")
    return Found(
        block_of_tiff(data), raw.get(ICC_TAG), raw.get(XMP_TAG), None, resources, dpi=_tiff_dpi(data, first, order)
    )


def _tiff_dpi(data: bytes, first: tiff_tags.Directory, order: tiff_tags.Order) -> tuple[float, float] | None:
    unit = tiff_tags.integer(data, first.find(296), order, 2)
    found = []
    for tag in (282, 283):
        entry = first.find(tag)
        if entry is None or entry.kind != tiff_tags.RATIONAL or unit not in (2, 3):
            return None
        above, below = struct.unpack(order + "II", entry.raw(data)[:8])
        found.append(above / below * (2.54 if unit == 3 else 1) if below else 0.0)
    return _positive(tuple(found))


def _positive(dpi: Any) -> tuple[float, float] | None:
    """Usable numbers, or None."""
    usable = dpi is not None and all(math.isfinite(n) and 1 <= n <= 65_535 for n in dpi)
    return (float(dpi[0]), float(dpi[1])) if usable else None


def _nclx(data: bytes) -> tuple[Chunk, ...]:
    """The colour signal of a HEIC or AVIF picture as the PNG chunk cICP; plain sRGB is no signal."""
    place = nclx_place(data)
    primaries, transfer = (2, 2) if place is None else struct.unpack_from(">HH", data, place)
    usual = primaries in (1, 2) and transfer in (1, 2, 6, 13)
    return () if usual or max(primaries, transfer) > 255 else ((b"cICP", bytes([primaries, transfer, 0, 1])),)
