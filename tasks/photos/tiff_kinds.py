"""Which TIFF files hold one photograph that can be read, told from their tags; every refusal names its true reason."""

from __future__ import annotations

from PIL.TiffImagePlugin import COMPRESSION_INFO

from tasks.photos import tiff_tags
from tasks.photos.formats import PhotoError
from tasks.photos.tiff_tags import Directory, Order

NEW_SUBFILE_TYPE, SUBFILE_TYPE, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES = 254, 255, 258, 259, 262, 277
PLANAR, EXTRA_SAMPLES, SAMPLE_FORMAT, DNG_VERSION = 284, 338, 339, 50706
REDUCED, MASK = 1, 4
"""Bits of NewSubfileType: a smaller version of another page, a transparency mask."""
COMPRESSIONS = frozenset(COMPRESSION_INFO) - {50001}
"""What Pillow's libtiff unpacks: all it knows but WebP."""
SENSOR_DATA = (32803, 34892)
"""Photometric interpretations of a colour filter array and of linear raw."""
WHITE_IS_ZERO = 0
NAMES = {3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32844: "LogL", 32845: "LogLuv"}
SHALLOW, DEEP = frozenset({1, 2, 4, 8}), 16


class TiffKind:
    """The tags of a TIFF's first page that decide how its samples are read.

    Raises PhotoError (multi-page, unsupported-format, unsupported-mode, damaged).
    """

    def __init__(self, data: bytes) -> None:
        """Look at all pages, read none."""
        self._data, self._order = data, tiff_tags.byte_order(data)
        if tiff_tags.claimed_bytes(data, self._order) > 2 * len(data) + 1000:
            raise PhotoError("damaged", "The TIFF's tags claim more bytes than the file has. Export it again.")
        pages = list(tiff_tags.pages(data, self._order))
        if not pages:
            raise PhotoError("damaged", "The TIFF holds no page. Export it again.")
        self._first = pages[0]
        self._check_pages(pages)
        self._check_samples()

    def _number(self, tag: int, default: int, page: Directory | None = None) -> int:
        order: Order = self._order
        return tiff_tags.integer(self._data, (page or self._first).find(tag), order, default)

    def _set(self, tag: int, default: int) -> set[int]:
        return set(tiff_tags.integers(self._data, self._first.find(tag), self._order)) or {default}

    def _is_page(self, page: Directory) -> bool:
        kind = self._number(NEW_SUBFILE_TYPE, 0, page)
        return not kind & (REDUCED | MASK) and self._number(SUBFILE_TYPE, 1, page) != 2

    def _check_pages(self, pages: list[Directory]) -> None:
        if self._first.find(DNG_VERSION) or self._number(PHOTOMETRIC, 1) in SENSOR_DATA:
            raise PhotoError("unsupported-format", "This is raw camera data (DNG, NEF …). Develop it to TIFF first.")
        if not self._is_page(self._first):
            raise PhotoError(
                "unsupported-format",
                "The TIFF's first picture is a small version or mask of another, as in raw camera data. Develop it to a "
                "plain TIFF first.",
            )
        count = sum(map(self._is_page, pages))
        if count > 1:
            raise PhotoError("multi-page", f"The TIFF has {count} pages. Save each page as a file of its own.")

    def _check_samples(self) -> None:
        compression, bits = self._number(COMPRESSION, 1), self._set(BITS, 1)
        if compression not in COMPRESSIONS:
            raise _mode(f"is compressed by method {compression}", "Save it with LZW or Deflate")
        if self._set(SAMPLE_FORMAT, 1) - {1, 4}:
            kind = "floating-point" if 3 in self._set(SAMPLE_FORMAT, 1) else "signed or complex"
            raise _mode(f"holds {kind} samples", "Save it with 8 or 16 bits a sample, unsigned")
        if not (bits <= SHALLOW or bits == {DEEP}):
            raise _mode(f"has {', '.join(map(str, sorted(bits)))} bits a sample", "Save it with 8 or 16 bits a sample")
        photometric = self._number(PHOTOMETRIC, 1)
        if photometric in (8, 9, 10, 32844, 32845) or (bits == {DEEP} and photometric not in (0, 1, 2)):
            name = NAMES.get(photometric, f"of kind {photometric}")
            raise _mode(f"is {name} at {max(bits)} bits a sample", "Save it as RGB")
        if self._number(SAMPLES, 1) > 4:
            raise _mode(f"has {self._number(SAMPLES, 1)} channels", "Save it as RGB, flattened")

    @property
    def is_direct(self) -> bool:
        """Whether libtiff alone reads the samples: of 16 bits, and of 8 where each channel is stored by itself."""
        bits = self._set(BITS, 1)
        return bits == {DEEP} or (bits == {8} and self.is_planar and self._number(PHOTOMETRIC, 1) in (0, 1, 2))

    @property
    def extra(self) -> int | None:
        """What the last of two or four channels is: 0 nobody says, 1 premultiplied alpha, 2 alpha; None if it is colour."""
        if self._number(SAMPLES, 1) not in (2, 4):
            return None
        return self._number(EXTRA_SAMPLES, 2)

    @property
    def is_planar(self) -> bool:
        """Whether each channel is stored by itself."""
        return self._number(PLANAR, 1) == 2

    @property
    def is_negative(self) -> bool:
        """Whether 0 means white."""
        return self._number(PHOTOMETRIC, 1) == WHITE_IS_ZERO


def _mode(what: str, fix: str) -> PhotoError:
    return PhotoError("unsupported-mode", f"The TIFF {what}, which is not supported. {fix}.")
