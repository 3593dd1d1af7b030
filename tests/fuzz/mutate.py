"""One to eight changes to a file: bits, lengths, pieces lost or doubled, pieces of another file, words that matter."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence

MAX_BYTES = 300_000
PNG = b"\x89PNG\r\n\x1a\n"
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
WORDS = (
    b"NaN", b"Infinity", b"-1", b"1e308", b"9" * 400, b"\0", b"\xed\xa0\x80", b"..", b"%2e%2e/", b"file:///", b"::", b"@", b"//",
    b"http://[::ffff:10.0.0.1]/", b"[" * 3000, b"{" * 3000, b'"', b"'", b"\\", b"\r\n", b"\n", b",", b"\t", b"null", b"true", b"{}",
    b"[]", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1b[31m", b"\xe2\x80\xae", b"<?xml", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;",
    b"Exif\0\0", b"II*\0", b"MM\0*", b"IDAT", b"iCCP", b"tEXt", b"eXIf", b"VP8X", b"ftyp", b"meta", b"PAR1", b"ICC_PROFILE\0",
    b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0", b"8BIM", b"\xff\xd8", b"\xff\xe1", b"\xff\xda", b"\xff\xd9",
)  # fmt: skip


def mutated(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """The file after one to eight changes; few changes are more likely, and the first kilobytes hit more often."""
    result = bytearray(data)
    for _ in range(min(rng.randint(1, 8), rng.randint(1, 8))):
        _change(result, others, rng)
    data = bytes(result[:MAX_BYTES])
    return with_checksums(data) if data.startswith(PNG) and rng.random() < 0.5 else data


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums that fit, or every change would end there."""
    pieces, place = [PNG], len(PNG)
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        body = data[place + 4 : place + 8 + length]
        pieces += [data[place : place + 4], body, zlib.crc32(body).to_bytes(4, "big")]
        place += length + 12
    return b"".join(pieces)


def _change(result: bytearray, others: Sequence[bytes], rng: random.Random) -> None:
    size = len(result)
    reach = min(size, 2000) if rng.random() < 0.5 else size
    place, length = rng.randrange(reach + 1), rng.choice([1, 2, 4, 16, 64, 1000])
    kind = rng.randrange(9)
    if kind == 0 and size:
        result[min(place, size - 1)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        width, order = rng.choice("BHIQ"), rng.choice("<>")
        number = struct.pack(order + width, rng.choice(NUMBERS) & (256 ** struct.calcsize(width) - 1))
        result[place : place + len(number)] = number
    elif kind == 2:
        del result[place : place + length]
    elif kind == 3:
        result[place:place] = rng.randbytes(length)
    elif kind == 4:
        result[place:place] = result[place : place + length] * rng.choice([1, 2, 50])
    elif kind == 5:
        other = rng.choice(others)
        start = rng.randrange(len(other))
        result[place : place + rng.choice([0, length])] = other[start : start + 4 * length]
    elif kind == 6:
        word = rng.choice(WORDS)
        result[place : place + rng.choice([0, len(word)])] = word
    elif kind == 7:
        start = rng.randrange(size + 1)
        result[place : place + length] = result[start : start + length]
    elif rng.random() < 0.3:
        del result[place:]
