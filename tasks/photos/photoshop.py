"""Photoshop's image resources, of which a photograph's IPTC statements (IIM) are one: "8BIM" blocks one after another.

Adobe Photoshop File Formats Specification, "Image Resource Blocks"; IPTC-NAA Information Interchange Model 4.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

SIGNATURE = b"Photoshop 3.0\0"
"""Begins the APP13 segment of a JPEG."""
IPTC, COPYRIGHT_FLAG, URL, CAPTION_DIGEST = 0x0404, 0x040A, 0x040B, 0x0425
KEPT = frozenset({IPTC, COPYRIGHT_FLAG, URL, CAPTION_DIGEST})
"""Others describe the old file (thumbnail, layers, print size) or say again what stands elsewhere (EXIF, XMP, ICC)."""
LOCATION = frozenset({(2, 26), (2, 27), (2, 90), (2, 92), (2, 95), (2, 100), (2, 101)})
"""IIM data sets: content location code and name, city, sublocation, province, country code and name."""
MAX_BYTES = 4 << 20


def resources(blocks: bytes) -> Iterator[tuple[int, bytes]]:
    """(id, content) of each resource, until the end or the first that is damaged."""
    position = 0
    while blocks[position : position + 4] == b"8BIM" and position + 12 <= len(blocks):
        (number,), name = struct.unpack_from(">H", blocks, position + 4), blocks[position + 6]
        position += 7 + name + (name + 1) % 2
        if position + 4 > len(blocks):
            return
        (length,) = struct.unpack_from(">I", blocks, position)
        position += 4
        if position + length > len(blocks):
            return
        yield number, blocks[position : position + length]
        position += length + length % 2


def block(number: int, content: bytes) -> bytes:
    """One resource without a name."""
    head = b"8BIM" + struct.pack(">HHI", number, 0, len(content))
    return head + content + bytes(len(content) % 2)


def kept(blocks: bytes) -> tuple[bytes, bool]:
    """The resources that describe the photograph, and whether there were others."""
    found = list(resources(blocks[:MAX_BYTES]))
    return b"".join(block(n, c) for n, c in found if n in KEPT), any(n not in KEPT for n, _ in found)


def iptc(blocks: bytes) -> bytes | None:
    """The IPTC statements among resources."""
    return next((content for number, content in resources(blocks) if number == IPTC), None)


def without_location(blocks: bytes) -> bytes:
    """Resources whose IPTC statements name no place; the digest of the old statements goes with them."""
    changed = ((n, _no_places(c) if n == IPTC else c) for n, c in resources(blocks) if n != CAPTION_DIGEST)
    return b"".join(block(number, content) for number, content in changed)


def _no_places(statements: bytes) -> bytes:
    parts, position = [], 0
    while position + 5 <= len(statements) and statements[position] == 0x1C:
        record, data_set, length = struct.unpack_from(">BBH", statements, position + 1)
        end = position + 5 + length
        if length & 0x8000 or end > len(statements):  # a long data set: no camera or editor writes one
            break
        if (record, data_set) not in LOCATION:
            parts.append(statements[position:end])
        position = end
    return b"".join(parts)
