"""Photographs from bytes: every file becomes either upright pixels at full depth or one clear error.

Decoding trusts nothing: the format is known from the bytes, not the name; the size is checked before a pixel is
allocated; a file that promises more than it holds is refused rather than padded with black.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, Image, ImageCms, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from tasks.photos.exif import ORIENTATION, with_orientation
from tasks.photos.formats import PhotoError, recognise, sound_png, webp_size
from tasks.photos.metadata import Found, Metadata, interpreted
from tasks.photos.read_metadata import find_metadata, has_jpeg_end, jpeg_segments
from tasks.photos.tiff_kinds import BITS, DEEP, EXTRA_SAMPLES, PHOTOMETRIC, PLANAR, SAMPLES, TiffKind

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

Image.core.set_blocks_max(8)  # type: ignore[attr-defined]  # of 16 MB, kept for the next photo: fresh memory is slow
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit: ours is an argument, and is checked before anything is allocated

MAX_PIXELS_PER_BYTE = {"jpeg": 1000, "png": 8500}
"""A blank JPEG holds at most about 340 pixels a byte, a blank 1-bit PNG 8 × 1032: more than this is no real picture."""
ENDS_EARLY = ("truncated", "too small", "not enough image data", "unexpected end", "read error")
"""What Pillow, libpng and libtiff say of a file that is cut off."""
OTHER_KINDS = ("unknown pixel mode", "unknown data organization", "12-bit layers")
"""What Pillow says of a whole file whose samples it cannot read: 12 bits in a JPEG, odd channels in a TIFF."""
EXTRA = ("extra channel",)
"""What a picture does not carry of a file with a channel that is neither colour nor alpha."""
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
    webp, tiff, heic or avif; ``grey`` if the file was black and white; ``lossless`` if a WebP file was; ``file``: its
    bytes where encoding the pixels anew would change them, else None.
    """

    pixels: Pixels
    alpha: Pixels | None
    format: str
    grey: bool = False
    lossless: bool = False
    metadata: Metadata = Metadata()
    file: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def decode_photo(data: bytes, limits: PhotoLimits = PhotoLimits()) -> Photo:
    """Decode JPEG, PNG, WebP, HEIC, AVIF or baseline TIFF bytes at 8 or 16 bits a channel.

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


BAND_PIXELS = 1 << 18
"""Pixels that are shrunk at a time: they stay in the processor's cache."""
BLOCKS = 25
"""Averages of blocks of pixels are taken so fine that at least so many lie along a side of a pixel at model size."""


def model_input(photo: Photo, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The whole photograph squeezed to ``size`` (h, w) by area averaging: (3, h, w) float32 in [0, 1].

    Where it is large and has 8 bits a sample, whole blocks are averaged first, each a small part of a pixel of ``size``.
    (Decoding a JPEG a second time at an eighth of its size would take longer than that.)
    """
    pixels, (height, width) = photo.pixels, photo.pixels.shape[:2]
    scale = np.float32(np.iinfo(pixels.dtype).max)
    blocks = [max(1, full // small // BLOCKS) for full, small in zip((height, width), size, strict=True)]
    if pixels.dtype == np.uint8 and max(blocks) > 1:
        pixels = block_means(pixels, blocks[0], blocks[1])
    else:
        blocks = [1, 1]
    down, across = _area_weights(height, size[0], blocks[0]), _area_weights(width, size[1], blocks[1])
    rows = down @ pixels.reshape(len(pixels), -1).astype(np.float32)
    squeezed: npt.NDArray[np.float32] = across @ rows.reshape(size[0], -1, 3)  # (h, w, 3)
    squeezed /= scale
    return np.ascontiguousarray(np.moveaxis(squeezed, 2, 0))


def block_means(pixels: Pixels, down: int, across: int) -> Pixels:
    """(H, W, 3) uint8 averaged over blocks of ``down`` × ``across`` pixels, those at the far borders smaller."""
    rows = max(1, BAND_PIXELS // (pixels.shape[1] * down)) * down
    bands = (Image.fromarray(pixels[y : y + rows]) for y in range(0, len(pixels), rows))
    return np.concatenate([np.asarray(band.reduce((across, down))) for band in bands])


def _area_weights(full: int, small: int, block: int) -> npt.NDArray[np.float32]:
    """(small, blocks): the share that each block of ``block`` of ``full`` pixels in a row has in each of ``small``."""
    ends, wanted = np.minimum(np.arange(0, full + block, block), full), np.linspace(0, full, small + 1)
    first, last = np.maximum(ends[:-1], wanted[:-1, None]), np.minimum(ends[1:], wanted[1:, None])
    return ((last - first).clip(0) * small / full).astype(np.float32)


def _damaged(error: Exception) -> PhotoError:
    if any(words in str(error).lower() for words in OTHER_KINDS):
        return PhotoError(
            "unsupported-mode",
            f"The picture's kind of samples is not supported ({error}). Save it as RGB with 8 or 16 bits a sample.",
        )
    if any(words in str(error).lower() for words in ENDS_EARLY):
        return PhotoError("truncated", "The file ends before the picture does. Copy or download it again.")
    name = type(error).__name__
    return PhotoError("damaged", f"The file is damaged ({name}). Open it in an editor and export it again.")


def _decode(kind: str, data: bytes, limits: PhotoLimits) -> Photo:
    if kind == "webp":  # libwebp allocates the canvas on opening
        _check_size(webp_size(data), kind, data, limits)
    data, broken = sound_png(data) if kind == "png" else (data, [])  # names of chunks
    tiff = _checked_tiff(kind, data)
    image = _open(kind, data)
    _check_size(image.size, kind, data, limits)
    found = find_metadata(kind, image, data)
    _check_is_one_photo(kind, image, found, limits)
    orientation, metadata = interpreted(found, image.size[::-1], upright=kind == "heic")  # libheif turns the pixels
    stored = _samples(kind, image, data, metadata.icc, tiff)
    turn = UPRIGHT.get(orientation)
    samples = np.atleast_3d(turn(stored.samples) if turn else stored.samples)
    channels = samples.shape[2]
    lossless = kind == "webp" and b"VP8L" in data[:64]
    return Photo(
        pixels=np.repeat(samples[..., :1], 3, axis=2) if channels < 3 else np.ascontiguousarray(samples[..., :3]),
        alpha=np.ascontiguousarray(samples[..., -1]) if channels in (2, 4) else None,
        format=kind,
        grey=channels < 3,
        lossless=lossless,
        metadata=replace(
            metadata,
            icc=stored.icc,
            dropped=(*metadata.dropped, *stored.dropped, *broken),
        ),
        file=None if lossless or kind in ("png", "tiff") else data,
    )


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG whose EXIF is left alone: ours is read by ``tasks.photos.exif``."""

    def getexif(self) -> Image.Exif:
        """Nothing."""
        return Image.Exif()


class _Tiff(TiffImagePlugin.TiffImageFile):
    """A TIFF that is not turned while it is decoded: orientation has one rule for all formats.

    What libtiff alone reads (``TiffKind.is_direct``) is opened as a kind that Pillow knows.
    """

    def _setup(self) -> None:
        self.tag_v2.pop(ORIENTATION, None)
        if self.tag_v2.get(PHOTOMETRIC) in (0, 1, 2):
            self.tag_v2.pop(PLANAR, None)
        if set(self.tag_v2.get(BITS, ())) == {DEEP} and self.tag_v2.get(PHOTOMETRIC) in (0, 1):
            self.tag_v2[PHOTOMETRIC], self.tag_v2[SAMPLES], self.tag_v2[BITS] = 1, 1, (DEEP,)
            self.tag_v2.pop(EXTRA_SAMPLES, None)
        super()._setup()

    def getexif(self) -> Image.Exif:
        """Nothing."""
        return Image.Exif()


class _Avif(AvifImagePlugin.AvifImageFile):
    """An AVIF that opens also where Pillow cannot write its EXIF anew to hold the container's orientation."""

    def _open(self) -> None:
        try:
            super()._open()
        except (AttributeError, TypeError, ValueError, KeyError, struct.error):
            if not all(self.size):
                raise
            *_, exif, orientation, _ = self._decoder.get_info()
            self.info["exif"] = with_orientation(exif, orientation)
            self.seek(0)


def _open(kind: str, data: bytes) -> Any:
    """Read the header only. Pillow's plugins are called by name: nothing but these six formats can ever be tried."""
    stream = BytesIO(data)
    match kind:
        case "jpeg":
            return _Jpeg(stream)
        case "png":
            return PngImagePlugin.PngImageFile(stream)
        case "webp":
            return WebPImagePlugin.WebPImageFile(stream)
        case "avif":
            return _Avif(stream)
        case "heic":
            return heif_plugin().HeifImageFile(stream)
        case _:
            return _Tiff(stream)


def heif_plugin() -> Any:
    """The module pillow_heif. Raises PhotoError (unsupported-format) if it is not installed."""
    try:
        import pillow_heif
    except ImportError as error:
        raise PhotoError(
            "unsupported-format",
            "This is a HEIC picture. Install the part that reads it: pip install 'fixpoint-diffusion[heif]'.",
        ) from error
    return pillow_heif


def _checked_tiff(kind: str, data: bytes) -> TiffKind | None:
    """Refuse before Pillow opens it what would make it copy the file over and over; how a TIFF is to be read."""
    if kind == "jpeg":
        for _ in jpeg_segments(data):
            pass
    return TiffKind(data) if kind == "tiff" else None


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


def _check_is_one_photo(kind: str, image: Any, found: Found, limits: PhotoLimits) -> None:
    """Refuse moving pictures and panoramas. (A JPEG or HEIC may carry more pictures; a TIFF's pages were counted.)"""
    if kind not in ("jpeg", "heic", "tiff") and getattr(image, "n_frames", 1) > 1:
        raise PhotoError("animated", "The picture is animated. Save one frame as a picture of its own.")
    long, short = max(image.size), min(image.size)
    if long > limits.max_aspect * short or b"GPano:" in (found.xmp or b"")[: 1 << 20]:
        raise PhotoError(
            "panorama", "Panoramas are out of scope: the whole picture would be squeezed to a square. Crop it to parts."
        )


@dataclass(frozen=True)
class _Samples:
    """Pixels (H, W) or (H, W, C) in L, LA, RGB or RGBA order, the ICC profile that goes with them, and what was lost."""

    samples: npt.NDArray[Any]
    icc: bytes | None
    dropped: tuple[str, ...] = ()


def _samples(kind: str, image: Any, data: bytes, icc: bytes | None, tiff: TiffKind | None) -> _Samples:
    if kind == "png":  # libpng checks that every row is there, and reads 16 bits
        return _Samples(imagecodecs.png_decode(data), icc)
    if tiff is not None and tiff.is_direct:
        return _direct_tiff(data, tiff, icc)
    if kind == "heic":
        return _heic(image, data, icc)
    if kind == "jpeg" and (direct := _direct_jpeg(image, data)) is not None:
        return _Samples(direct, icc)
    if image.mode == "CMYK":
        return _Samples(_from_cmyk(image, icc), None, ("CMYK (converted to sRGB)",))
    return _Samples(np.asarray(_to_plain_mode(image)), icc, EXTRA if tiff is not None and tiff.extra == 0 else ())


def _direct_jpeg(image: Any, data: bytes) -> npt.NDArray[np.uint8] | None:
    """The pixels of a whole JPEG in colour, decoded to where they stay: the same as Pillow's, without two copies on the way.

    None for any other, Pillow then says what is wrong with it: libjpeg alone takes what a cut file lacks as grey.
    """
    if image.mode != "RGB" or not has_jpeg_end(data):
        return None
    try:
        samples: npt.NDArray[np.uint8] = imagecodecs.jpeg8_decode(data)
    except imagecodecs.Jpeg8Error:
        return None
    return samples if samples.dtype == np.uint8 and samples.shape == (*image.size[::-1], 3) else None


def _direct_tiff(data: bytes, tiff: TiffKind, icc: bytes | None) -> _Samples:
    samples = imagecodecs.tiff_decode(data, index=0)
    if tiff.is_planar and samples.ndim == 3:
        samples = np.moveaxis(samples, 0, -1)
    if tiff.extra == 0:
        return _Samples(samples[..., :-1], icc, EXTRA)
    if tiff.extra == 1:
        samples = _straight(samples)
    return _Samples(np.iinfo(samples.dtype).max - samples if tiff.is_negative else samples, icc)


def _straight(samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Colours that were multiplied by the last channel, alpha, as they were before; where nothing is seen they stay."""
    most, alpha = np.iinfo(samples.dtype).max, samples[..., -1:].astype(np.float64)
    colours = np.divide(
        samples[..., :-1] * float(most), alpha, out=samples[..., :-1].astype(np.float64), where=alpha > 0
    )
    return np.concatenate([np.rint(colours).clip(0, most).astype(samples.dtype), samples[..., -1:]], axis=-1)


def _heic(image: Any, data: bytes, icc: bytes | None) -> _Samples:
    """HEIC at 8 bits, or at 16 where the file has more than 8."""
    if image.info.get("bit_depth", 8) <= 8:
        return _Samples(np.asarray(_to_plain_mode(image)), icc)
    picture = heif_plugin().open_heif(BytesIO(data), convert_hdr_to_8bit=False)
    return _Samples(np.asarray(picture), icc)


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
        except (ImageCms.PyCMSError, OSError):
            pass
    return np.asarray(image.convert("RGB"))
