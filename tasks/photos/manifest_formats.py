"""The lines of a manifest, however a tool wrote it: CSV with any separator, JSON in any form, Parquet, gzipped or not.

Text may be UTF-8 or UTF-16, with a byte-order mark or without. A line that cannot be read is a :class:`Broken`, and the
lines after it are read all the same.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import zlib
from collections.abc import Iterator

from tasks.photos.manifest_json import read_json
from tasks.photos.manifest_rows import Broken, Row, column_name
from tasks.photos.manifest_tables import read_table

PARQUET, GZIP = b"PAR1", b"\x1f\x8b"
"""First bytes of such files."""
OTHERS = {
    b"PK": "an Excel workbook or an archive", b"\xd0\xcf\x11\xe0": "an Excel workbook", b"ARROW1": "Arrow",
    b"%PDF": "a PDF", b"BZh": "compressed by bzip2", b"\xfd7zXZ": "compressed by xz", b"\x28\xb5\x2f\xfd": "compressed by zstd",
}  # fmt: skip
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_rows(data: bytes, wanted: frozenset[str], max_bytes: int) -> Iterator[Row | Broken]:
    """The lines of a manifest by column names in lower case, only ``wanted`` ones of Parquet.

    Raises ValueError if the whole is none of the formats, or unpacks to more than ``max_bytes``.
    """
    data = _unpacked(data, max_bytes)
    if data.startswith(PARQUET):
        yield from read_table(io.BytesIO(data), wanted)
        return
    for magic, kind in OTHERS.items():
        if data.startswith(magic):
            raise ValueError(f"it is {kind}: save it as CSV")
    text = as_text(data)
    start = text.lstrip()[:1]
    if start in ("[", "{"):
        yield from read_json(text, wanted)
    elif start:
        yield from _csv(text, wanted)


def _unpacked(data: bytes, max_bytes: int) -> bytes:
    if not data.startswith(GZIP):
        return data
    unpack = zlib.decompressobj(wbits=31)
    try:
        whole = unpack.decompress(data, max_bytes)
    except zlib.error as error:
        raise ValueError(f"it is damaged gzip ({error}): compress it again") from None
    if not unpack.eof:
        more = f"it unpacks to more than {max_bytes:,} bytes: split it"
        raise ValueError(more if unpack.unconsumed_tail else "it is gzip that ends early: copy it again")
    return whole


def as_text(data: bytes) -> str:
    """UTF-8 or UTF-16 (UTF-32 with its mark) as text. Raises ValueError for other encodings."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decoded(data[len(mark) :], encoding)
    head = data[:4096]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if 8 * max(even, odd) > len(head):  # every second byte of UTF-16 that holds mostly ASCII
        return _decoded(data, "utf-16-le" if odd > even else "utf-16-be")
    return _decoded(data, "utf-8")


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} is not {encoding.upper()}: save it as UTF-8") from None


def _csv(text: str, wanted: frozenset[str]) -> Iterator[Row | Broken]:
    """The lines below the header. A header that comes again, as of files put together, is left out."""
    text, comments = _from_header(text)
    lines = list(io.StringIO(text, newline=""))
    names, separator = _header(lines, wanted)
    header = [column_name(name) for name in names]
    if twice := {name for name in header if name and header.count(name) > 1}:
        raise ValueError(f"it has two columns called {min(twice)}")
    padded = any(name != name.strip() for name in names)  # then values are, too
    for record in itertools.islice(_records(lines, separator), 1, None):
        if isinstance(record, Broken):
            yield record
            continue
        values = [value.strip() for value in record] if padded else record
        if not any(values) or record == names or (comments and values[0].startswith("#")):
            continue
        if len(values) > len(header) and any(values[len(header) :]):
            yield Broken(f"it has {len(values)} values, and the header {len(header)} columns: put quotes around text")
        else:
            yield dict(zip(header, values, strict=False))


def _records(lines: list[str], separator: str) -> Iterator[list[str] | Broken]:
    """Values of each record. Where one is broken, by a quotation mark that is not closed say, the next line is next."""
    at = 0
    while at < len(lines):
        reader, done = csv.reader(itertools.islice(lines, at, None), delimiter=separator, strict=True), 0
        try:
            for values in reader:
                yield values
                done = reader.line_num
            return
        except csv.Error as error:
            yield Broken(f"it is not CSV ({error}): look for a quotation mark too much")
            at += done + 1


def _from_header(text: str) -> tuple[str, bool]:
    """The text from its header on, without blank lines, comments and Excel's ``sep=`` before it; were there comments?"""
    comments = False
    while True:
        line, newline, rest = text.partition("\n")
        is_comment = line.startswith("#")
        if not newline or not (is_comment or not line.strip() or line.strip(' "\r').lower().startswith("sep=")):
            return text, comments
        text, comments = rest, comments or is_comment


def _header(lines: list[str], wanted: frozenset[str]) -> tuple[list[str], str]:
    """The columns, and the separator that makes most of them known."""
    best: tuple[list[str], str] = ([], ",")
    most = -1
    for separator in ",;\t|":
        names = next(_records(lines, separator))
        known = -1 if isinstance(names, Broken) else len(wanted & set(map(column_name, names)))
        if not isinstance(names, Broken) and known > most:
            best, most = (names, separator), known
    return best
