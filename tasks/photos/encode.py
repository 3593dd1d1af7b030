"""Photographs to bytes: the edited pixels in a file like the original's, saying what was done to it."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from xml.sax.saxutils import escape

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from tasks.photos.decode import EXIF_OF_TIFF, ORIENTATION, SUB_DIRECTORIES, Photo, Pixels
from tasks.photos.formats import PNG_SIGNATURE, PhotoError

SUFFIXES = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "tiff": ".tif"}
MAX_SIDE = {"jpeg": 65_500, "webp": 16_383}
CHROMA = {"4:4:4": 0, "4:2:0": 2}
ENHANCED = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicallyEnhanced"

XMP_HEAD = """<?xpacket begin="\N{ZERO WIDTH NO-BREAK SPACE}" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
"""
XMP_TAIL = """</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""
OURS = "xmp:CreatorTool|Iptc4xmpExt:DigitalSourceType|tiff:Orientation|fixpoint:RunId|fixpoint:ModelDigest"


@dataclass(frozen=True)
class Provenance:
    """What a written picture says about its making: ``software`` ("Fixpoint 1.0.0"), the run's id, the model's digest,
    and an IPTC digital source type."""

    software: str
    run_id: str
    model_digest: str
    digital_source_type: str = ENHANCED

    def xmp(self, packet: bytes | None = None) -> bytes:
        """An XMP packet with these statements, added to an existing ``packet`` where it can be added to."""
        properties = {
            "xmp:CreatorTool": self.software,
            "Iptc4xmpExt:DigitalSourceType": self.digital_source_type,
            "fixpoint:RunId": self.run_id,
            "fixpoint:ModelDigest": self.model_digest,
        }
        body = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in properties.items())
        description = (
            '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
            'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
            f'xmlns:fixpoint="urn:fixpoint-diffusion:xmp:1.0:">{body}</rdf:Description>\n'
        )
        return _with_description(packet, description).encode()


def _with_description(packet: bytes | None, description: str) -> str:
    """Put ``description`` last into an XMP packet, removing what it restates; start anew if the packet is unusual."""
    try:
        text = (packet or b"").decode()
    except UnicodeDecodeError:
        text = ""
    if text.count("</rdf:RDF>") != 1 or "<!DOCTYPE" in text:
        return XMP_HEAD + description + XMP_TAIL
    text = re.sub(r"<rdf:Description [^>]*xmlns:fixpoint=.*?</rdf:Description>\n?", "", text, flags=re.DOTALL)
    text = re.sub(rf'\s(?:{OURS})\s*=\s*(?:"[^"]*"|\'[^\']*\')', "", text)
    text = re.sub(rf"<({OURS})(?:\s[^>]*)?(?:/>|>.*?</\1>)", "", text, flags=re.DOTALL)
    return text.replace("</rdf:RDF>", description + "</rdf:RDF>")


def encode_photo(
    pixels: Pixels,
    like: Photo,
    format: str = "same",
    *,
    quality: int = 92,
    chroma: str = "4:4:4",
    provenance: Provenance | None = None,
) -> tuple[bytes, str]:
    """Encode edited ``pixels`` (H, W, 3) uint8 or uint16 as ``like`` was: its alpha, EXIF, ICC profile and XMP kept.

    ``format`` is same, jpeg, png, webp or tiff; PNG and TIFF keep 16 bits, JPEG and WebP have 8. JPEG cannot hold
    alpha: transparent parts turn white. ``quality`` 1 to 100 and ``chroma`` 4:4:4 or 4:2:0 apply to JPEG; quality also
    to WebP (always 4:2:0) unless the original was lossless. A black-and-white photo stays one. Equal input gives equal
    bytes. ``provenance`` None writes none.

    Returns the bytes and the file name's suffix. Raises ValueError for unknown options, PhotoError (too-many-pixels)
    if the format cannot hold so large a picture.
    """
    kind = like.format if format == "same" else format
    if kind not in SUFFIXES:
        raise ValueError(f"format must be one of same, {', '.join(SUFFIXES)}, not {format!r}")
    if chroma not in CHROMA:
        raise ValueError(f"chroma must be one of {', '.join(CHROMA)}, not {chroma!r}")
    if max(pixels.shape[:2]) > MAX_SIDE.get(kind, 2**31):
        raise PhotoError("too-many-pixels", f"{kind} holds at most {MAX_SIDE[kind]} pixels a side. Write PNG or TIFF.")
    xmp = provenance.xmp(like.xmp) if provenance else like.xmp
    samples = _samples(pixels, like)
    match kind:
        case "jpeg":
            data = _jpeg(samples, like, quality, CHROMA[chroma], xmp)
        case "png":
            data = _png(samples, like, xmp)
        case "webp":
            data = _webp(samples, like, quality, xmp)
        case _:
            data = _tiff(samples, like, xmp)
    return data, SUFFIXES[kind]


def _samples(pixels: Pixels, like: Photo) -> npt.NDArray[Any]:
    """(H, W, C) in L, LA, RGB or RGBA order."""
    colour: npt.NDArray[Any] = pixels
    if like.grey:
        luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
        colour = np.rint(luma).astype(pixels.dtype)[..., None]
    if like.alpha is None:
        return colour
    return np.concatenate([colour, _to_depth(like.alpha, pixels.dtype)[..., None]], axis=2)


def _to_depth(samples: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    if samples.dtype == dtype:
        return samples
    if dtype == np.uint16:
        return samples.astype(np.uint16) * 257
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _image(samples: npt.NDArray[Any]) -> Image.Image:
    """An 8-bit Pillow image."""
    samples = _to_depth(samples, np.uint8)
    return Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)


def _metadata(like: Photo, xmp: bytes | None) -> dict[str, bytes]:
    found = {"exif": like.exif, "icc_profile": like.icc, "xmp": xmp}
    return {name: value for name, value in found.items() if value}


def _jpeg(samples: npt.NDArray[Any], like: Photo, quality: int, subsampling: int, xmp: bytes | None) -> bytes:
    image = _image(samples)
    if image.mode in ("LA", "RGBA"):
        opaque = Image.new(image.mode[:-1], image.size, "white")
        opaque.paste(image.convert(image.mode[:-1]), mask=image.getchannel("A"))
        image = opaque
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality, subsampling=subsampling, **_metadata(like, xmp))
    return stream.getvalue()


def _webp(samples: npt.NDArray[Any], like: Photo, quality: int, xmp: bytes | None) -> bytes:
    stream = BytesIO()
    options = {"lossless": True} if like.lossless else {"quality": quality}
    _image(samples).save(stream, "WEBP", exact=True, **options, **_metadata(like, xmp))
    return stream.getvalue()


def _png(samples: npt.NDArray[Any], like: Photo, xmp: bytes | None) -> bytes:
    """PNG by libpng, with our chunks between header and pixels."""
    plane = samples[..., 0] if samples.shape[2] == 1 else samples
    body = bytes(imagecodecs.png_encode(np.ascontiguousarray(plane), level=6))
    header_end = len(PNG_SIGNATURE) + 25
    chunks = b""
    if like.icc:
        chunks += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(like.icc, 9))
    if like.exif:
        chunks += _chunk(b"eXIf", like.exif.removeprefix(b"Exif\0\0"))
    if xmp:
        chunks += _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    return body[:header_end] + chunks + body[header_end:]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _tiff(samples: npt.NDArray[Any], like: Photo, xmp: bytes | None) -> bytes:
    """Baseline TIFF of one deflated strip with horizontal differences (predictor 2), 8 or 16 bits."""
    if samples.shape[2] == 2 and samples.dtype == np.uint16:  # few programs read grey with alpha at 16 bits
        samples = samples[..., [0, 0, 0, 1]]
    height, width, channels = samples.shape
    samples = samples.astype(samples.dtype.newbyteorder("<"))
    differences = np.diff(samples, axis=1, prepend=np.zeros_like(samples[:, :1]))
    strip = zlib.compress(differences.tobytes(), 6)
    tags = _descriptive_tags(like.exif)
    layout: dict[int, Any] = {
        256: width,
        257: height,
        258: (samples.dtype.itemsize * 8,) * channels,
        259: 8,  # deflate
        262: 1 if channels < 3 else 2,
        273: 0,  # moved behind the directory when it is written
        277: channels,
        278: height,
        279: len(strip),
        317: 2,
    }
    if channels in (2, 4):
        layout[338] = (2,)  # unassociated alpha
    for tag, value in layout.items():
        tags[tag] = value
    if like.icc:
        tags.tagtype[34675], tags[34675] = 7, like.icc
    if xmp:
        tags.tagtype[700], tags[700] = 1, xmp
    stream = BytesIO()
    tags.save(stream)
    return stream.getvalue() + strip


def _descriptive_tags(block: bytes | None) -> ImageFileDirectory_v2:
    """A TIFF directory with the descriptive part of an EXIF block."""
    tags = ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    exif = Image.Exif()
    if block:
        exif.load(block)
    for tag in sorted(set(exif) & EXIF_OF_TIFF - {ORIENTATION}):
        tags[tag] = exif.get_ifd(tag) if tag in SUB_DIRECTORIES else exif[tag]
    return tags
