"""Photographs from bytes: every file becomes either upright pixels at full depth or one clear error.

Decoding trusts nothing: the format is known from the bytes, not the name; the size is checked before a pixel is
allocated; a file that promises more than it holds is refused rather than padded with black.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from tasks.photos.formats import PhotoError, png_chunks, recognise, webp_size

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit: ours is an argument, and is checked before anything is allocated

ORIENTATION = 0x0112
EXIF_OF_TIFF = {270, 271, 272, 274, 305, 306, 315, 316, 33432, 0x8769, 0x8825}
"""Tags of a TIFF's first directory that describe the photograph; all others describe the layout of the file."""
SUB_DIRECTORIES = (0x8769, 0x8825)
"""EXIF and GPS."""
MAX_PIXELS_PER_BYTE = {"jpeg": 1000, "png": 8500}
"""A blank JPEG holds at most about 340 pixels a byte, a blank 1-bit PNG 8 × 1032: more than this is no real picture."""
ENDS_EARLY = ("truncated", "too small", "not enough image data", "unexpected end", "read error")
"""What Pillow, libpng and libtiff say of a file that is cut off."""
UPRIGHT: dict[int, Callable[[Any], Any]] = {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, 3),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: lambda a: np.rot90(a, 1),
}
"""EXIF orientation to the turn that undoes it."""


@dataclass(frozen=True)
class PhotoLimits:
    """What is accepted: ``max_pixels`` (about 8 bytes of memory each while decoding), ``max_bytes`` of the file and
    ``max_aspect``, the longest side over the shortest, past which a picture counts as a panorama."""

    max_pixels: int = 200_000_000
    max_bytes: int = 1_000_000_000
    max_aspect: float = 4.0


@dataclass(frozen=True)
class Photo:
    """A decoded photograph and what is needed to write it back like the original.

    ``pixels`` (H, W, 3) uint8 or uint16, upright; ``alpha`` (H, W) of the same type or None; ``format`` jpeg, png,
    webp or tiff; ``grey`` if the file was black and white; ``lossless`` if a WebP file was; ``exif`` with the
    orientation reset and without thumbnail, ``icc`` profile of the pixels and ``xmp`` packet as found, or None.
    """

    pixels: Pixels
    alpha: Pixels | None
    format: str
    grey: bool = False
    lossless: bool = False
    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def decode_photo(data: bytes, limits: PhotoLimits = PhotoLimits()) -> Photo:
    """Decode JPEG, PNG, WebP or baseline TIFF bytes at 8 or 16 bits a channel.

    Raises PhotoError for whatever is not one whole photograph within the limits; no other error leaves this function
    except MemoryError.
    """
    if not data:
        raise PhotoError("empty-file", "The file is empty. Copy or export it again.")
    if len(data) > limits.max_bytes:
        raise PhotoError(
            "too-large",
            f"The file has {len(data):,} bytes, over the limit of {limits.max_bytes:,}. Raise max_bytes to accept it.",
        )
    try:
        return _decode(recognise(data), data, limits)
    except (PhotoError, MemoryError):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, KeyError … on damaged files
        raise _damaged(error) from error


def model_input(photo: Photo, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The whole photograph squeezed to ``size`` (h, w) by area averaging: (3, h, w) float32 in [0, 1]."""
    scale = np.float32(np.iinfo(photo.pixels.dtype).max)
    channels = [
        Image.fromarray(photo.pixels[..., c].astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)
        for c in range(3)
    ]
    return np.stack([np.asarray(channel, np.float32) for channel in channels]) / scale


def _damaged(error: Exception) -> PhotoError:
    if any(words in str(error).lower() for words in ENDS_EARLY):
        return PhotoError("truncated", "The file ends before the picture does. Copy or download it again.")
    if "unknown pixel mode" in str(error):
        return _unsupported_samples()
    name = type(error).__name__
    return PhotoError("damaged", f"The file is damaged ({name}). Open it in an editor and export it again.")


def _unsupported_samples() -> PhotoError:
    return PhotoError(
        "unsupported-mode", "The TIFF holds float, signed or 32-bit samples. Save it with 8 or 16 bits a sample."
    )


def _decode(kind: str, data: bytes, limits: PhotoLimits) -> Photo:
    if kind == "webp":  # libwebp allocates the canvas on opening
        _check_size(webp_size(data), kind, data, limits)
    image = _open(kind, data)
    _check_size(image.size, kind, data, limits)
    metadata = _metadata(kind, image, data)
    _check_is_one_photo(kind, image, metadata, limits)
    stored = _samples(kind, image, data)
    turn = None if stored.upright else UPRIGHT.get(metadata.orientation)
    samples = np.atleast_3d(turn(stored.samples) if turn else stored.samples)
    channels = samples.shape[2]
    return Photo(
        pixels=np.repeat(samples[..., :1], 3, axis=2) if channels < 3 else np.ascontiguousarray(samples[..., :3]),
        alpha=np.ascontiguousarray(samples[..., -1]) if channels in (2, 4) else None,
        format=kind,
        grey=channels < 3,
        lossless=kind == "webp" and b"VP8L" in data[:64],
        exif=metadata.exif,
        icc=stored.icc,
        xmp=metadata.xmp,
    )


def _open(kind: str, data: bytes) -> Any:
    """Read the header only. Pillow's plugins are called by name: nothing but these four formats can ever be tried."""
    stream = BytesIO(data)
    match kind:
        case "jpeg":
            return JpegImagePlugin.jpeg_factory(stream)
        case "png":
            return PngImagePlugin.PngImageFile(stream)
        case "webp":
            return WebPImagePlugin.WebPImageFile(stream)
        case _:
            return TiffImagePlugin.TiffImageFile(stream)


def _check_size(size: tuple[int, int], kind: str, data: bytes, limits: PhotoLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise PhotoError(
            "too-many-pixels",
            f"The picture has {width} x {height} pixels, more than the {limits.max_pixels:,} allowed. "
            "Make it smaller, or raise max_pixels if there is memory for it.",
        )
    if kind in MAX_PIXELS_PER_BYTE and width * height > MAX_PIXELS_PER_BYTE[kind] * len(data):
        raise PhotoError(
            "inconsistent-size",
            f"The file claims {width} x {height} pixels but has only {len(data):,} bytes. Copy or export it again.",
        )


def _check_is_one_photo(kind: str, image: Any, metadata: _Metadata, limits: PhotoLimits) -> None:
    """Refuse moving pictures, documents, raw sensor data and panoramas. (A JPEG may carry more pictures: MPO.)"""
    if kind != "jpeg" and getattr(image, "n_frames", 1) > 1:
        if kind == "tiff":
            raise PhotoError("multi-page", "The TIFF has several pages. Save each page as a file of its own.")
        raise PhotoError("animated", "The picture is animated. Save one frame as a picture of its own.")
    if kind == "tiff" and (50706 in image.tag_v2 or image.tag_v2.get(254, 0) & 1):
        raise PhotoError("unsupported-format", "This is raw camera data (DNG, NEF …). Develop it to TIFF first.")
    long, short = max(image.size), min(image.size)
    if long > limits.max_aspect * short or b"GPano:" in (metadata.xmp or b""):
        raise PhotoError(
            "panorama", "Panoramas are out of scope: the whole picture would be squeezed to a square. Crop it to parts."
        )


@dataclass(frozen=True)
class _Metadata:
    orientation: int
    exif: bytes | None
    xmp: bytes | None


def _metadata(kind: str, image: Any, data: bytes) -> _Metadata:
    xmp = image.info.get("xmp")
    if kind == "tiff":
        xmp = image.tag_v2.get(700)
    if kind == "png":
        texts = [c for name, c in png_chunks(data) if name == b"iTXt" and c.startswith(b"XML:com.adobe.xmp\0\0\0")]
        xmp = texts[0].split(b"\0", 5)[5] if texts else None
    return _Metadata(*_exif(kind, image, data), xmp if isinstance(xmp, bytes) else None)


def _exif(kind: str, image: Any, data: bytes) -> tuple[int, bytes | None]:
    """Orientation and EXIF block with the orientation reset. A damaged block is dropped: the picture matters more."""
    try:
        exif = _read_exif(kind, image, data)
        orientation = exif.get(ORIENTATION, 1)
        if ORIENTATION in exif:
            exif[ORIENTATION] = 1
        return (orientation if orientation in range(1, 9) else 1), (exif.tobytes() if len(exif) else None)
    except Exception:  # Pillow's EXIF reader raises whatever its parsing trips over
        return 1, None


def _read_exif(kind: str, image: Any, data: bytes) -> Image.Exif:
    exif: Image.Exif = Image.Exif()
    if kind == "png":  # Pillow would decode the whole PNG to find a chunk behind the pixels
        exif.load(dict(png_chunks(data)).get(b"eXIf") or image.info.get("exif"))
        return exif
    found: Image.Exif = image.getexif()
    if kind != "tiff":
        return found
    for tag in EXIF_OF_TIFF & set(found):
        if tag in SUB_DIRECTORIES:
            exif.get_ifd(tag).update(found.get_ifd(tag))
        else:
            exif[tag] = found[tag]
    return exif


@dataclass(frozen=True)
class _Samples:
    """Pixels (H, W) or (H, W, C) in L, LA, RGB or RGBA order, the ICC profile that goes with them, and whether the
    EXIF orientation was already undone."""

    samples: npt.NDArray[Any]
    icc: bytes | None
    upright: bool = False


def _samples(kind: str, image: Any, data: bytes) -> _Samples:
    icc = image.info.get("icc_profile") or None
    if kind == "png":  # libpng checks that every row is there, and reads 16 bits
        return _Samples(imagecodecs.png_decode(data), icc)
    if kind == "tiff" and _is_16_bit(image):
        samples = imagecodecs.tiff_decode(data, index=0)
        is_planar = image.tag_v2.get(284) == 2 and samples.ndim == 3
        return _Samples(np.moveaxis(samples, 0, -1) if is_planar else samples, icc)
    if image.mode == "CMYK":
        return _Samples(_from_cmyk(image, icc), None, upright=kind == "tiff")
    return _Samples(np.asarray(_to_plain_mode(image)), icc, upright=kind == "tiff")  # Pillow turns TIFF on loading


def _is_16_bit(image: Any) -> bool:
    bits, kinds = set(image.tag_v2.get(258, (1,))), set(image.tag_v2.get(339, (1,)))
    if bits == {16} and kinds == {1} and image.tag_v2.get(262) in (1, 2):
        return True
    if bits <= {1, 2, 4, 8} and kinds == {1}:
        return False
    raise _unsupported_samples()


def _to_plain_mode(image: Any) -> Any:
    plain = {"1": "L", "YCbCr": "RGB", "RGBX": "RGB", "RGBa": "RGBA", "La": "LA"}
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    if image.mode in plain:
        return image.convert(plain[image.mode])
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    raise PhotoError("unsupported-mode", f"Pictures of kind {image.mode} are not supported. Save it as RGB.")


def _from_cmyk(image: Any, icc: bytes | None) -> npt.NDArray[Any]:
    """CMYK to sRGB through the file's own profile, or by the plain formula where it has none that works."""
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(BytesIO(icc))
            image.load()
            return np.asarray(
                ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            )
        except ImageCms.PyCMSError:
            pass
    return np.asarray(image.convert("RGB"))
