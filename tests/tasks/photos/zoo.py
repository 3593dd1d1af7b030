"""The image zoo: generated files, good and bad, and what decoding each must give. Nothing binary is kept."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms

RNG = np.random.default_rng(7)
SMALL = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
PICTURE = np.asarray(Image.fromarray(SMALL).resize((80, 60), Image.Resampling.BICUBIC))
"""60 × 80 pixels, smooth enough for JPEG."""
ALPHA = np.asarray(Image.fromarray(SMALL[..., 0]).resize((80, 60)))
GREY = np.asarray(Image.fromarray(PICTURE).convert("L"))
DEEP = PICTURE.astype(np.uint16) * 257 + RNG.integers(-100, 100, PICTURE.shape).clip(0).astype(np.uint16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@dataclass(frozen=True)
class Case:
    """``data`` must decode to ``pixels`` within ``tolerance`` levels on average, or fail with ``code``."""

    name: str
    data: bytes
    pixels: np.ndarray | None = None
    alpha: np.ndarray | None = None
    tolerance: float = 0.0
    code: str | None = None


def save(pixels: np.ndarray | Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, format, **options)
    return stream.getvalue()


def moving(format: str, **options: Any) -> bytes:
    """Two pictures in one file."""
    return save(PICTURE, format, save_all=True, append_images=[Image.fromarray(255 - PICTURE)], **options)


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG with right checksums, whatever it claims."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112], block[271] = orientation, "Camera & Co"
    block.get_ifd(0x8769)[33434] = 0.01
    loaded = Image.Exif()  # Pillow writes the inner directory to a TIFF only of a block that was read
    loaded.load(block.tobytes())
    return loaded


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """What must be stored so that ``orientation`` shows ``pixels``: written out from the EXIF standard's table."""
    rows_first = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1]}
    if orientation <= 4:
        return rows_first[orientation]
    flipped = {5: pixels, 6: pixels[:, ::-1], 7: pixels[::-1, ::-1], 8: pixels[::-1]}[orientation]
    return np.swapaxes(flipped, 0, 1)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def patched(data: bytes, position: int, content: bytes) -> bytes:
    return data[:position] + content + data[position + len(content) :]


JPEG = save(PICTURE, "JPEG", quality=95, subsampling=0)
PNG = save(PICTURE, "PNG")
WEBP = save(PICTURE, "WEBP", quality=95)
TIFF = save(PICTURE, "TIFF")
CUT_OFF = {"jpeg": JPEG, "png": PNG, "webp": WEBP, "tiff": TIFF, "png16": imagecodecs.png_encode(DEEP)}


def png_cases() -> list[Case]:
    palette = Image.fromarray(PICTURE).quantize(16)
    in_palette = np.asarray(palette.convert("RGB"))
    clear = np.where(np.asarray(palette) == 3, 0, 255).astype(np.uint8)
    bits, deep = GREY > 127, np.ascontiguousarray(DEEP[..., 0])
    packed = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    deep_alpha = np.dstack([DEEP, DEEP[..., :1]])
    return [
        Case("png-rgb", PNG, PICTURE),
        Case("png-rgba", save(np.dstack([PICTURE, ALPHA]), "PNG"), PICTURE, ALPHA),
        Case("png-grey", save(GREY, "PNG"), grey(GREY)),
        Case("png-grey-alpha", save(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), "PNG"),
             grey(GREY), ALPHA),
        Case("png-1-bit", png(80, 60, packed, depth=1, colour=0), grey(bits * np.uint8(255))),
        Case("png-palette", save(palette, "PNG"), in_palette),
        Case("png-palette-transparent", save(palette, "PNG", transparency=3), in_palette, clear),
        Case("png-grey-16", imagecodecs.png_encode(deep), grey(deep)),
        Case("png-grey-16-by-pillow", save(deep, "PNG"), grey(deep)),
        Case("png-grey-alpha-16", imagecodecs.png_encode(np.dstack([deep, deep])), grey(deep), deep),
        Case("png-rgb-16", imagecodecs.png_encode(DEEP), DEEP),
        Case("png-rgba-16", imagecodecs.png_encode(deep_alpha), DEEP, DEEP[..., 0]),
        Case("png-icc", save(PICTURE, "PNG", icc_profile=SRGB), PICTURE),
        Case("png-icc-bomb", png_with(b"iCCP", b"x\0\0" + zlib.compress(bytes(100_000_000), 9)), code="damaged"),
        Case("png-text-bomb", png_with(b"zTXt", b"x\0\0" + zlib.compress(bytes(100_000_000), 9)), code="damaged"),
        Case("png-orientation-6", save(turned(PICTURE, 6), "PNG", exif=exif(6)), PICTURE),
        Case("one-pixel", save(PICTURE[:1, :1], "PNG"), PICTURE[:1, :1]),
    ]  # fmt: skip


def png_with(name: bytes, content: bytes) -> bytes:
    return PNG[:33] + chunk(name, content) + PNG[33:]


def jpeg_cases() -> list[Case]:
    cmyk = Image.fromarray(PICTURE).convert("CMYK")
    adobe = save(cmyk, "JPEG", quality=95)
    marker = adobe.index(b"\xff\xee")
    plain = adobe[:marker] + adobe[marker + 2 + int.from_bytes(adobe[marker + 2 : marker + 4], "big") :]
    broken = save(PICTURE, "JPEG", quality=95, exif=exif(6)).replace(b"II*\0", b"II*\xff").replace(b"MM\0*", b"MM\xff*")
    sign_changes = [
        Case(f"jpeg-orientation-{n}", save(turned(PICTURE, n), "JPEG", quality=95, subsampling=0, exif=exif(n)),
             PICTURE, tolerance=2)
        for n in range(1, 9)
    ]  # fmt: skip
    return [
        *sign_changes,
        Case("jpeg-rgb", JPEG, PICTURE, tolerance=2),
        Case("jpeg-4:2:0", save(PICTURE, "JPEG", quality=95), PICTURE, tolerance=6),
        Case("jpeg-progressive", save(PICTURE, "JPEG", quality=95, progressive=True, subsampling=0),
             PICTURE, tolerance=2),
        Case("jpeg-grey", save(GREY, "JPEG", quality=95), grey(GREY), tolerance=2),
        Case("jpeg-cmyk-adobe", adobe, PICTURE, tolerance=6),
        Case("jpeg-cmyk-without-marker", plain, PICTURE, tolerance=6),
        Case("jpeg-several-pictures", moving("MPO", quality=95, subsampling=0), PICTURE, tolerance=2),
        Case("jpeg-orientation-9", save(PICTURE, "JPEG", quality=95, subsampling=0, exif=exif(9)),
             PICTURE, tolerance=2),
        Case("jpeg-corrupt-exif", broken, PICTURE, tolerance=6),
        Case("jpeg-and-zip-polyglot", JPEG + b"PK\x03\x04 <html>", PICTURE, tolerance=2),
    ]  # fmt: skip


def webp_cases() -> list[Case]:
    return [
        Case("webp-lossy", WEBP, PICTURE, tolerance=6),
        Case("webp-lossless", save(PICTURE, "WEBP", lossless=True), PICTURE),
        Case("webp-alpha", save(np.dstack([PICTURE, ALPHA]), "WEBP", lossless=True, exact=True), PICTURE, ALPHA),
        Case("webp-orientation-8", save(turned(PICTURE, 8), "WEBP", lossless=True, exif=exif(8)), PICTURE),
    ]


def tiff_cases() -> list[Case]:
    palette = Image.fromarray(PICTURE).quantize(16)
    deep_alpha = np.dstack([DEEP, DEEP[..., :1]])
    turned_deep = tiff(turned(DEEP, 6), photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    return [
        Case("tiff-rgb", TIFF, PICTURE),
        Case("tiff-rgba", save(np.dstack([PICTURE, ALPHA]), "TIFF"), PICTURE, ALPHA),
        Case("tiff-grey", save(GREY, "TIFF"), grey(GREY)),
        Case("tiff-1-bit", save(Image.fromarray(GREY > 127), "TIFF"), grey((GREY > 127) * np.uint8(255))),
        Case("tiff-palette", save(palette, "TIFF"), np.asarray(palette.convert("RGB"))),
        Case("tiff-cmyk", save(Image.fromarray(PICTURE).convert("CMYK"), "TIFF"), PICTURE, tolerance=1),
        Case("tiff-lzw", save(PICTURE, "TIFF", compression="tiff_lzw"), PICTURE),
        Case("tiff-deflate", save(PICTURE, "TIFF", compression="tiff_deflate"), PICTURE),
        Case("tiff-jpeg", save(PICTURE, "TIFF", compression="jpeg", quality=95), PICTURE, tolerance=6),
        Case("tiff-orientation-5", save(turned(PICTURE, 5), "TIFF", exif=exif(5)), PICTURE),
        Case("tiff-grey-16", save(DEEP[..., 0], "TIFF"), grey(DEEP[..., 0])),
        Case("tiff-rgb-16", tiff(DEEP, photometric="rgb"), DEEP),
        Case("tiff-rgb-16-big-endian", tiff(DEEP, photometric="rgb", byteorder=">", compression="zlib"), DEEP),
        Case("tiff-rgb-16-planar", tiff(np.moveaxis(DEEP, 2, 0), photometric="rgb", planarconfig="separate"), DEEP),
        Case("tiff-rgb-16-lzw", tiff(DEEP, photometric="rgb", compression="lzw", predictor=True), DEEP),
        Case("tiff-rgb-16-orientation-6", turned_deep, DEEP),
        Case("tiff-rgba-16", tiff(deep_alpha, photometric="rgb", extrasamples=["unassalpha"]), DEEP, DEEP[..., 0]),
    ]


def foreign_cases() -> list[Case]:
    heads = {
        "jpeg-2000": b"\0\0\0\x0cjP  \r\n\x87\n",
        "jpeg-xl": b"\xff\x0a\0\0", "pdf": b"%PDF-1.7", "photoshop": b"8BPS\0\1", "cr2": b"II*\0\x10\0\0\0CR\2\0",
        "cr3": b"\0\0\0\x18ftypcrx ", "raf": b"FUJIFILMCCD-RAW", "bigtiff": b"II+\0\x08\0",
    }  # fmt: skip
    videos = {"mp4": b"\0\0\0\x18ftypisom", "mov": b"\0\0\0\x14ftypqt  ", "mkv": b"\x1a\x45\xdf\xa3",
              "avi": b"RIFF\0\0\0\0AVI LIST"}  # fmt: skip
    texts = {"html": b"<!DOCTYPE html><html>", "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "zip": b"PK\3\4",
             "one-byte": b"\xff", "text": b"a photograph"}  # fmt: skip
    return [
        Case("empty", b"", code="empty-file"),
        *(Case(name, head + bytes(200), code="unsupported-format") for name, head in heads.items()),
        *(Case(name, head + bytes(200), code="video") for name, head in videos.items()),
        *(Case(name, text, code="not-an-image") for name, text in texts.items()),
        Case("gif", save(PICTURE, "GIF"), code="unsupported-format"),
        Case("gif-animated", moving("GIF"), code="unsupported-format"),
        Case("bmp", save(PICTURE, "BMP"), code="unsupported-format"),
        Case("webp-animated", moving("WEBP"), code="animated"),
        Case("png-animated", moving("PNG"), code="animated"),
        Case("tiff-pages", moving("TIFF"), code="multi-page"),
        Case("dng", tiff(PICTURE, extratags=[(50706, 1, 4, (1, 4, 0, 0), True)]), code="unsupported-format"),
        Case("raw-preview", tiff(PICTURE, subfiletype=1), code="unsupported-format"),
        Case("jpeg-12-bit", imagecodecs.jpeg8_encode(DEEP >> 4, bitspersample=12), code="unsupported-mode"),
        Case("tiff-float", tiff(PICTURE.astype(np.float32), photometric="rgb"), code="unsupported-mode"),
        Case("tiff-half", tiff(PICTURE.astype(np.float16), photometric="rgb"), code="unsupported-mode"),
        Case("tiff-int-32", tiff(DEEP.astype(np.uint32), photometric="rgb"), code="unsupported-mode"),
        Case("tiff-signed", tiff((DEEP // 2).astype(np.int16), photometric="rgb"), code="unsupported-mode"),
        Case("tiff-lab", save(Image.fromarray(PICTURE).convert("LAB"), "TIFF"), code="unsupported-mode"),
        Case("strip", save(np.zeros((1, 65500, 3), np.uint8), "JPEG"), code="panorama"),
        Case("four-to-one", save(np.resize(PICTURE, (10, 40, 3)), "PNG"), np.resize(PICTURE, (10, 40, 3))),
        Case("wider-than-four-to-one", save(PICTURE[:10, :41], "PNG"), code="panorama"),
        Case("tall-panorama", save(PICTURE[:41, :10], "PNG"), code="panorama"),
        Case("photo-sphere", save(PICTURE, "JPEG", xmp=b"<x GPano:ProjectionType='cylindrical'/>"), code="panorama"),
    ]


def damaged_cases() -> list[Case]:
    half = b"".join(b"\0" + bytes(row) for row in RNG.integers(0, 256, (30, 240), dtype=np.uint8))
    cut = [
        Case(f"{kind}-cut-at-{percent}%", data[: max(12, len(data) * percent // 100)], code="truncated")
        for kind, data in CUT_OFF.items()
        for percent in (1, 10, 50, 99)
    ]
    idat = PNG.index(b"IDAT") + 20
    return [
        *cut,
        Case("png-half-its-rows", png(80, 60, half), code="truncated"),
        Case("png-ten-rows-of-9000", png(9000, 9000, bytes(27001) * 10), code="inconsistent-size"),
        Case("png-flipped-bit", patched(PNG, idat, bytes([PNG[idat] ^ 1])), code="damaged"),
        Case("webp-header", b"RIFF\x40\0\0\0WEBPVP9 " + bytes(60), code="damaged"),
    ]


def bombs() -> list[Case]:
    """Small files that claim pictures of up to four gigapixels."""
    sof = JPEG.index(b"\xff\xc0") + 5
    webp = save(np.dstack([PICTURE, ALPHA]), "WEBP")
    assert webp[12:16] == b"VP8X"
    blank = bytes(10)
    return [
        Case("bomb-png-900-mp", png(30000, 30000, blank), code="too-many-pixels"),
        Case("bomb-png-144-mp", png(12000, 12000, blank), code="inconsistent-size"),
        Case("bomb-png-144-mp-blank", png(12000, 12000, bytes(1501 * 11900), depth=1, colour=0), code="truncated"),
        Case("bomb-jpeg-4-gp", patched(JPEG, sof, struct.pack(">HH", 65500, 65500)), code="too-many-pixels"),
        Case("bomb-jpeg-144-mp", patched(JPEG, sof, struct.pack(">HH", 12000, 12000)), code="inconsistent-size"),
        Case("bomb-webp-268-mp", patched(webp, 24, b"\xfe\x3f\0\xfe\x3f\0"), code="too-many-pixels"),
        Case("bomb-webp-144-mp", patched(webp, 24, b"\xdf\x2e\0\xdf\x2e\0"), code="damaged"),
        Case("bomb-tiff-900-mp", resized_tiff(30000), code="too-many-pixels"),
        Case("bomb-tiff-144-mp", resized_tiff(12000), code="truncated"),
        Case("bomb-tiff-16-144-mp", resized_tiff(12000, DEEP), code="truncated"),
    ]


def resized_tiff(side: int, pixels: np.ndarray = PICTURE) -> bytes:
    """A TIFF that claims ``side`` × ``side`` pixels in one strip."""
    data = tiff(pixels, photometric="rgb")
    for tag in (256, 257, 278):
        entry = data.index(struct.pack("<H", tag), 8)
        kind = int.from_bytes(data[entry + 2 : entry + 4], "little")
        data = patched(data, entry + 8, struct.pack("<H" if kind == 3 else "<I", side))
    return data


def all_cases() -> list[Case]:
    return [
        *png_cases(), *jpeg_cases(), *webp_cases(), *tiff_cases(), *foreign_cases(), *damaged_cases(), *bombs()
    ]  # fmt: skip
