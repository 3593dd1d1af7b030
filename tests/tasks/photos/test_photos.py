"""Photographs through decode and encode: nothing lost on the way, and the file says what was done to it."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image, ImageCms

from tasks.photos.decode import Photo, decode_photo, model_input
from tasks.photos.encode import ENHANCED, SUFFIXES, Provenance, encode_photo
from tasks.photos.formats import PhotoError
from tests.tasks.photos import zoo

MADE_BY = Provenance("Fixpoint 1.2.3", "run <7> & on", "sha256:abc")
LOSSLESS = ("png", "tiff")


def photo(data: bytes) -> Photo:
    return decode_photo(data)


def with_metadata(format: str) -> bytes:
    return zoo.save(zoo.PICTURE, format, exif=zoo.exif(6), icc_profile=zoo.SRGB)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("target", ["same", *SUFFIXES])
def test_metadata_survives_from_any_format_to_any(format: str, target: str) -> None:
    original = photo(with_metadata(format))
    encoded = encode_photo(original.pixels, original, target, provenance=MADE_BY)
    kind = original.format if target == "same" else target
    assert encoded.suffix == SUFFIXES[kind]
    data, again = encoded.data, photo(encoded.data)
    assert (again.format, again.size, again.metadata.icc) == (kind, original.size, zoo.SRGB)
    opened = pillow_heif.HeifImageFile if kind == "heic" else Image.open
    seen = opened(io.BytesIO(data))  # what another program reads
    exif = seen.getexif()
    assert exif[271] == "Camera & Co"
    assert exif.get(0x0112, 1) == 1
    assert exif.get_ifd(0x8769)[33434] == pytest.approx(0.01)
    assert seen.info.get("icc_profile") == zoo.SRGB
    assert seen.size == original.size[::-1]


@pytest.mark.parametrize("target", SUFFIXES)
def test_every_picture_says_what_was_done_to_it(target: str) -> None:
    original = photo(zoo.PNG)
    data = encode_photo(original.pixels, original, target, provenance=MADE_BY).data
    metadata = photo(data).metadata
    assert metadata.xmp is not None
    packet = ElementTree.fromstring(metadata.xmp.tobytes())
    found = {element.tag.split("}")[1]: element.text for element in packet.iter()}
    assert found["CreatorTool"] == "Fixpoint 1.2.3"
    assert found["DigitalSourceType"] == ENHANCED
    assert (found["RunId"], found["ModelDigest"]) == ("run <7> & on", "sha256:abc")
    silent = encode_photo(original.pixels, original, target).data
    assert photo(silent).metadata.xmp is None


@pytest.mark.parametrize("format", LOSSLESS)
@pytest.mark.parametrize("case", [c for c in zoo.all_cases() if c.pixels is not None], ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_lossless_formats_keep_every_bit(case: zoo.Case, format: str) -> None:
    original = photo(case.data)
    data = encode_photo(original.pixels, original, format, provenance=MADE_BY).data
    again = photo(data)
    np.testing.assert_array_equal(again.pixels, original.pixels)
    assert again.pixels.dtype == original.pixels.dtype
    assert again.grey == (original.grey and (case.name, format) != ("png-grey-alpha-16", "tiff"))
    assert (again.alpha is None) == (original.alpha is None)
    if original.alpha is not None:
        np.testing.assert_array_equal(again.alpha, original.alpha)
    if original.pixels.dtype == np.uint8:  # Pillow has no 16-bit colour to compare with
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), original.pixels)


def test_equal_input_gives_equal_bytes() -> None:
    for data in zoo.CUT_OFF.values():
        original = photo(data)
        for target in SUFFIXES:
            first, second = (encode_photo(original.pixels, original, target, provenance=MADE_BY) for _ in range(2))
            assert first == second


def test_sixteen_bits_become_eight_by_rounding_where_the_format_has_only_eight() -> None:
    deep = photo(zoo.CUT_OFF["png16"])
    data = encode_photo(deep.pixels, replace(deep, format="webp", lossless=True)).data
    np.testing.assert_array_equal(photo(data).pixels, np.rint(deep.pixels / 257))


def test_jpeg_turns_transparent_parts_white_and_the_others_keep_alpha() -> None:
    pixels, alpha = zoo.PICTURE, np.zeros((60, 80), np.uint8)
    alpha[:, :40] = 255
    original = Photo(pixels, alpha, "png")
    flattened = photo(encode_photo(pixels, original, "jpeg", quality=95).data)
    assert flattened.alpha is None
    assert flattened.pixels[:, 48:].min() > 250
    assert np.abs(flattened.pixels[:, :32].astype(int) - pixels[:, :32]).mean() < 2
    for target in ("png", "tiff", "webp"):
        np.testing.assert_array_equal(photo(encode_photo(pixels, original, target).data).alpha, alpha)


def test_black_and_white_stays_so() -> None:
    original = photo(zoo.save(zoo.GREY, "JPEG", quality=95))
    tinted = (original.pixels * np.array([1.0, 0.9, 0.8])).astype(np.uint8)
    data = encode_photo(tinted, original).data
    assert Image.open(io.BytesIO(data)).mode == "L"


def test_jpeg_quality_and_chroma() -> None:
    original = photo(zoo.JPEG)
    sizes = [len(encode_photo(original.pixels, original, quality=quality).data) for quality in (50, 92, 100)]
    assert sizes == sorted(sizes)
    for chroma, layers in (("4:4:4", (1, 1)), ("4:2:0", (2, 2))):
        image = Image.open(io.BytesIO(encode_photo(original.pixels, original, chroma=chroma).data))
        assert image.layer[0][1:3] == layers  # type: ignore[attr-defined]


def test_a_lossless_webp_stays_lossless() -> None:
    original = photo(zoo.save(zoo.PICTURE, "WEBP", lossless=True))
    np.testing.assert_array_equal(photo(encode_photo(original.pixels, original).data).pixels, zoo.PICTURE)
    assert not photo(zoo.WEBP).lossless


def with_thumbnail(exif: bytes) -> bytes:
    """The EXIF block with a second directory behind it that holds a thumbnail."""
    tiff = bytearray(exif.removeprefix(b"Exif\0\0"))
    order = "little" if tiff[:2] == b"II" else "big"
    link = 8 + 2 + 12 * int.from_bytes(tiff[8:10], order)
    tiff[link : link + 4] = len(tiff).to_bytes(4, order)
    picture = zoo.save(255 - zoo.PICTURE, "JPEG")
    offset, length = (n.to_bytes(4, order) for n in (len(tiff) + 30, len(picture)))
    head = [n.to_bytes(2, order) for n in (2, 0x0201, 4, 0x0202, 4)]
    one = (1).to_bytes(4, order)
    tiff += head[0] + head[1] + head[2] + one + offset + head[3] + head[4] + one + length + bytes(4) + picture
    return b"Exif\0\0" + bytes(tiff)


def test_the_embedded_thumbnail_of_the_old_picture_is_not_kept() -> None:
    data = zoo.save(zoo.PICTURE, "JPEG", exif=with_thumbnail(zoo.exif(1).tobytes()))
    assert Image.open(io.BytesIO(data)).getexif().get_ifd(ExifTags.IFD.IFD1)
    original = photo(data)
    assert not Image.open(io.BytesIO(encode_photo(original.pixels, original).data)).getexif().get_ifd(ExifTags.IFD.IFD1)


def test_cmyk_goes_through_its_own_profile() -> None:
    """No CMYK profile is free to ship, so a wrong one stands in: it must not stop the picture nor stay on it."""
    cmyk = zoo.save(Image.fromarray(zoo.PICTURE).convert("CMYK"), "JPEG", quality=95, icc_profile=zoo.SRGB)
    decoded = photo(cmyk)
    assert decoded.metadata.icc is None
    assert np.abs(decoded.pixels.astype(int) - zoo.PICTURE).mean() < 6


def test_a_profile_that_is_none_does_not_hurt() -> None:
    assert photo(zoo.save(zoo.PICTURE, "PNG", icc_profile=b"no profile")).metadata.icc == b"no profile"
    with pytest.raises((OSError, ImageCms.PyCMSError)):
        ImageCms.ImageCmsProfile(io.BytesIO(b"no profile"))


def test_model_input_is_the_area_mean() -> None:
    for data, scale in ((zoo.PNG, 255), (zoo.CUT_OFF["png16"], 65535)):
        original = photo(data)
        small = model_input(original, (6, 8))
        expected = original.pixels.reshape(6, 10, 8, 10, 3).mean((1, 3)) / scale
        np.testing.assert_allclose(small, np.moveaxis(expected, 2, 0), atol=1e-6)
        assert small.dtype == np.float32
    assert model_input(photo(zoo.save(zoo.PICTURE[:1, :1], "PNG")), (32, 32)).shape == (3, 32, 32)
    squeezed = model_input(photo(zoo.PNG), (32, 32))
    assert 0 <= squeezed.min() <= squeezed.max() <= 1


def test_model_input_of_a_large_photograph_is_the_exact_area_mean() -> None:
    """Blocks are averaged first, and pixels of the small picture end within blocks: the share of each counts."""
    noise = np.random.default_rng(0).integers(0, 256, (403, 517, 3)).astype(np.uint8)
    original = replace(photo(zoo.PNG), pixels=noise)
    fine = (
        np.repeat(np.repeat(noise, 6, 0), 8, 1).reshape(6, 403, 8, 517, 3).mean((1, 3))
    )  # whole blocks at 6 × 8 the size
    np.testing.assert_allclose(model_input(original, (6, 8)), np.moveaxis(fine, 2, 0) / 255, atol=0.5 / 255)
    assert np.abs(model_input(original, (6, 8)) - 0.5).max() < 0.02


def test_unknown_options_and_too_large_pictures_are_refused() -> None:
    original = photo(zoo.PNG)
    with pytest.raises(ValueError, match="format must be one of"):
        encode_photo(original.pixels, original, "gif")
    with pytest.raises(ValueError, match="chroma must be one of"):
        encode_photo(original.pixels, original, chroma="4:1:1")
    with pytest.raises(PhotoError, match="16383 pixels a side"):
        encode_photo(np.zeros((1, 16384, 3), np.uint8), original, "webp")


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_rows": 1}, {"quality": 30, "smooth": 5}]
)
def test_a_jpeg_in_colour_holds_what_pillow_reads(options: dict[str, int]) -> None:
    data = zoo.save(np.tile(zoo.PICTURE, (3, 2, 1)), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    for whole in (data, data + b"what a telephone adds \xff\xc0"):
        assert (photo(whole).pixels == expected).all()


def test_a_jpeg_without_its_last_byte_is_cut_off() -> None:
    data = zoo.save(zoo.PICTURE, "JPEG", progressive=True, comment=b"no end: \xff\xd9")
    for missing in (1, 2, 40):
        with pytest.raises(PhotoError, match="ends before the picture does"):
            photo(data[:-missing])
