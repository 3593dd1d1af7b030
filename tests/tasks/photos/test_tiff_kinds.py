"""TIFF files as scanners, editors and cameras write them: the photograph, or the true reason why not."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import tifffile

from tasks.photos.decode import decode_photo
from tasks.photos.formats import PhotoError
from tests.tasks.photos import zoo

SMALL = zoo.PICTURE[::4, ::4]
RGB = {"photometric": "rgb"}


def pages(*written: tuple[np.ndarray, dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for pixels, options in written:
            writer.write(pixels, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", [1, 4, 5], ids=["preview", "mask", "mask of a preview"])
def test_reduced_pages_and_masks_are_no_pages(kind: int) -> None:
    second = (
        (SMALL, {**RGB, "subfiletype": 1})
        if kind == 1
        else (SMALL[..., 0] > 99, {"photometric": "mask", "subfiletype": kind})
    )
    found = decode_photo(pages((zoo.PICTURE, RGB), second))
    np.testing.assert_array_equal(found.pixels, zoo.PICTURE)


def test_white_may_be_zero_at_any_depth() -> None:
    deep = zoo.DEEP[..., 0]
    for stored, expected in ((65535 - deep, deep), (255 - zoo.GREY, zoo.GREY)):
        found = decode_photo(zoo.tiff(np.ascontiguousarray(stored), photometric="miniswhite"))
        np.testing.assert_array_equal(found.pixels, zoo.grey(expected))


DEEP_CMYK = np.dstack([zoo.DEEP, zoo.DEEP[..., :1]])
REFUSED = {
    "pages": (
        pages((zoo.PICTURE, RGB), (zoo.PICTURE, RGB), (SMALL, {**RGB, "subfiletype": 1})),
        "multi-page",
        "2 pages",
    ),
    "preview first": (
        pages((SMALL, {**RGB, "subfiletype": 1}), (zoo.PICTURE, RGB)),
        "unsupported-format",
        "small version",
    ),
    "cmyk": (zoo.tiff(DEEP_CMYK, photometric="separated"), "unsupported-mode", "CMYK at 16 bits"),
    "float": (zoo.tiff(zoo.PICTURE.astype(np.float32), **RGB), "unsupported-mode", "floating-point"),
    "signed": (zoo.tiff(zoo.PICTURE.astype(np.int16), **RGB), "unsupported-mode", "signed"),
    "32 bits": (zoo.tiff(zoo.PICTURE.astype(np.uint32), **RGB), "unsupported-mode", "32 bits a sample"),
    "sensor data": (zoo.tiff(zoo.DEEP[..., 0], photometric="cfa"), "unsupported-format", "raw camera data"),
    "lab": (zoo.tiff(zoo.PICTURE, photometric="cielab"), "unsupported-mode", "CIELab"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_refusal_names_its_true_reason(name: str) -> None:
    data, code, said = REFUSED[name]
    with pytest.raises(PhotoError, match=said) as refused:
        decode_photo(data)
    assert refused.value.code == code


def test_an_unknown_compression_and_tags_that_overlap_are_refused() -> None:
    entry = zoo.TIFF.index(struct.pack("<HHI", 259, 3, 1))
    with pytest.raises(PhotoError, match="compressed by method 50999"):
        decode_photo(zoo.patched(zoo.TIFF, entry + 8, struct.pack("<H", 50999)))
    body = bytes(100_000)
    tags = [struct.pack("<HHII", 40_000 + i, 7, 90_000, 8) for i in range(500)]
    greedy = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 500) + b"".join(tags) + bytes(4) + body
    with pytest.raises(PhotoError, match="claim more bytes than the file has"):
        decode_photo(greedy)
