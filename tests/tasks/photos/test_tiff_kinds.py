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


STORED = [
    (kind, planar, order) for kind in (zoo.PICTURE, zoo.DEEP) for planar in ("contig", "separate") for order in "<>"
]


def with_last(colours: np.ndarray, last: np.ndarray, planar: str, order: str, extra: str) -> bytes:
    """A TIFF with one channel more than colours."""
    both = np.dstack([colours, last])
    both = np.ascontiguousarray(np.moveaxis(both, 2, 0)) if planar == "separate" else both
    photometric = "rgb" if colours.ndim == 3 else "minisblack"
    return zoo.tiff(
        both, photometric=photometric, planarconfig=planar, byteorder=order, extrasamples=[extra], metadata=None
    )


@pytest.mark.parametrize(("colours", "planar", "order"), STORED)
def test_alpha_is_alpha_however_it_is_stored(colours: np.ndarray, planar: str, order: str) -> None:
    alpha = np.ascontiguousarray(np.flipud(colours[..., 0]))
    for shade in (colours, np.ascontiguousarray(colours[..., 1])):
        found = decode_photo(with_last(shade, alpha, planar, order, "unassalpha"))
        np.testing.assert_array_equal(found.pixels, shade if shade.ndim == 3 else zoo.grey(shade))
        np.testing.assert_array_equal(found.alpha, alpha)


@pytest.mark.parametrize(("colours", "planar", "order"), STORED)
def test_premultiplied_colours_come_back(colours: np.ndarray, planar: str, order: str) -> None:
    most = np.iinfo(colours.dtype).max
    alpha = np.full(colours.shape[:2], most // 2, colours.dtype)
    stored = np.rint(colours.astype(float) * (most // 2) / most).astype(colours.dtype)
    found = decode_photo(with_last(stored, alpha, planar, order, "assocalpha"))
    assert np.abs(found.pixels.astype(int) - colours).max() <= 3
    np.testing.assert_array_equal(found.alpha, alpha)


@pytest.mark.parametrize(("colours", "planar", "order"), STORED)
def test_a_channel_that_is_no_alpha_is_left_out_and_named(colours: np.ndarray, planar: str, order: str) -> None:
    found = decode_photo(with_last(colours, colours[..., 0], planar, order, "unspecified"))
    np.testing.assert_array_equal(found.pixels, colours)
    assert found.alpha is None
    assert "extra channel" in found.metadata.dropped


@pytest.mark.parametrize("order", ["<", ">"])
def test_white_as_zero_in_either_byte_order(order: str) -> None:
    stored = np.ascontiguousarray(65535 - zoo.DEEP[..., 0])
    found = decode_photo(zoo.tiff(stored, photometric="miniswhite", byteorder=order))
    np.testing.assert_array_equal(found.pixels, zoo.grey(zoo.DEEP[..., 0]))


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
    "webp": (
        zoo.patched(zoo.TIFF, zoo.TIFF.index(struct.pack("<HHI", 259, 3, 1)) + 8, struct.pack("<H", 50001)),
        "unsupported-mode",
        "compressed by method 50001",
    ),
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
