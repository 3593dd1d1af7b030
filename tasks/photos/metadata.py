"""What a photograph says besides its pixels: what is kept, rewritten and dropped, by format, in one table.

``python -m tasks.photos.metadata > docs/METADATA.md`` writes the table for people; a test keeps it current.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tasks.photos import photoshop, xmp
from tasks.photos.exif import ExifBlock
from tasks.photos.xmp import Name, Packet, XmpError

Policy = Literal["keep", "no-location", "none"]
KINDS = ("jpeg", "png", "webp", "tiff", "heic", "avif")
SEGMENT = 65_533
"""Bytes that one segment of a JPEG holds at most."""
XMP_SEGMENT = SEGMENT - 29
"""Without the name that begins an XMP segment."""
MAX_ICC = 255 * (SEGMENT - 14)
"""A JPEG numbers the segments of its profile with one byte."""

Chunk = tuple[bytes, bytes]
"""Name and content of a PNG chunk."""


@dataclass(frozen=True)
class Found:
    """Metadata as a file holds it, not yet judged; the fields are those of ``Metadata``."""

    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    extended_xmp: bytes | None = None
    photoshop: bytes | None = None
    comments: tuple[bytes, ...] = ()
    texts: tuple[Chunk, ...] = ()
    dpi: tuple[float, float] | None = None
    colour: tuple[Chunk, ...] = ()
    other_pictures: bool = False
    others: tuple[str, ...] = ()
    """Names of segments and chunks that no picture is written with."""


@dataclass(frozen=True)
class Metadata:
    """What goes with the pixels into the written picture.

    ``exif``: block with the orientation reset and without thumbnail. ``icc``: profile of the pixels. ``photoshop``:
    image resources with the IPTC statements. ``comments``: of a JPEG, and PNG texts named Comment. ``texts``: PNG
    chunks tEXt, zTXt, iTXt. ``dpi``: pixels an inch, across and down. ``colour``: PNG chunks that say how the values
    are to be shown (gAMA, cHRM, sRGB, cICP, mDCV, cLLI). ``dropped``: what of the photo is not here.
    """

    exif: bytes | None = None
    icc: bytes | None = None
    xmp: Packet | None = None
    photoshop: bytes | None = None
    comments: tuple[bytes, ...] = ()
    texts: tuple[Chunk, ...] = ()
    dpi: tuple[float, float] | None = None
    colour: tuple[Chunk, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of the table: a kind of statement, the field that holds it, and what becomes of it by format."""

    name: str
    field: str
    """Of ``Metadata``; empty for statements that no format keeps."""
    formats: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Format to how it is kept there; a format that is missing cannot hold it, and the row of the photo says so."""
    note: str = ""

    @property
    def short(self) -> str:
        """The name without its explanation."""
        return self.name.partition(":")[0].partition(" (")[0]


TABLE = (
    Row(
        "EXIF: camera, exposure, time, place, maker notes",
        "exif",
        {"tiff": "kept: camera, exposure, time, place, artist", **dict.fromkeys(set(KINDS) - {"tiff"}, "kept")},
        "The block stays as it stands, also with tags of a wrong type; tags that cannot be read are dropped. In a JPEG "
        "a block over 64 kB loses the maker notes, and is dropped if it still does not fit.",
    ),
    Row("ICC profile", "icc", dict.fromkeys(KINDS, "kept"), "A CMYK picture is converted to sRGB and loses its own."),
    Row(
        "XMP: title, rating, rights, edits, any other namespace",
        "xmp",
        dict.fromkeys(KINDS, "kept"),
        "Written anew with the statements on how the picture was made. In a JPEG what does not fit into one segment "
        "goes to extended XMP. A packet that is not well-formed or larger than 4 MiB is dropped.",
    ),
    Row(
        "IPTC: caption, keywords, credit, copyright flag, URL",
        "photoshop",
        {"jpeg": "kept", "png": "kept as a raw profile", "tiff": "kept"},
    ),
    Row("Comments", "comments", {"jpeg": "kept", "png": "kept as text Comment"}),
    Row("PNG texts: Title, Author, Copyright …", "texts", {"png": "kept"}),
    Row(
        "Resolution in dots an inch (JFIF, pHYs, TIFF tags)",
        "dpi",
        {"jpeg": "kept", "png": "kept", "tiff": "kept"},
        "EXIF's own resolution tags stay with EXIF everywhere.",
    ),
    Row(
        "Colour signals: gAMA, cHRM, sRGB, cICP, mDCV, cLLI",
        "colour",
        {"png": "kept", "heic": "kept: cICP", "avif": "kept: cICP"},
        "cICP is what HEIC and AVIF call nclx; a HEIC holds it or an ICC profile. "
        "Other formats are shown by their ICC profile, else as sRGB.",
    ),
)


@dataclass(frozen=True)
class Rewritten:
    """Statements that are changed or dropped in every format."""

    name: str
    fate: Literal["rewritten", "dropped"]
    why: str


EVERYWHERE = (
    Rewritten(
        "Orientation (EXIF, else XMP, PNG eXIf and raw profiles, HEIC and AVIF transformations)",
        "rewritten",
        "the pixels are turned upright once, and EXIF then says 1; XMP's is dropped",
    ),
    Rewritten("Pixel dimensions in EXIF and XMP", "rewritten", "to those of the upright picture; XMP's are dropped"),
    Rewritten("Thumbnails in EXIF, XMP and image resources", "dropped", "they show the old picture"),
    Rewritten(
        "Gain maps, depth maps, embedded videos and sounds, further pictures of a file, and what XMP says of them",
        "dropped",
        "their bytes belong to the old picture",
    ),
    Rewritten("Other Photoshop resources: layers, paths, print size", "dropped", "they describe the old file"),
    Rewritten(
        "Content credentials (C2PA), other application segments, other chunks of PNG and WebP",
        "dropped",
        "they vouch for the old file, or are known to its program alone; `metadata_dropped` names each",
    ),
    Rewritten(
        "XMP CreatorTool, DigitalSourceType, fixpoint:RunId, fixpoint:ModelDigest",
        "rewritten",
        "unless provenance is off, or the photo was not changed and its file is copied",
    ),
)

LOST_NAMESPACES = frozenset(
    {
        "http://ns.adobe.com/hdr-gain-map/1.0/",
        "http://ns.apple.com/HDRGainMap/1.0/",
        "http://ns.apple.com/pixeldatainfo/1.0/",
        "http://ns.google.com/photos/1.0/container/",
        "http://ns.google.com/photos/1.0/container/item/",
        "http://ns.google.com/photos/1.0/depthmap/",
        "http://ns.google.com/photos/1.0/image/",
        "http://ns.google.com/photos/1.0/audio/",
        "http://ns.google.com/photos/1.0/focus/",
        "http://ns.google.com/photos/dd/1.0/container/",
        "http://ns.google.com/photos/dd/1.0/device/",
        "http://ns.google.com/photos/dd/1.0/item/",
    }
)
"""XMP namespaces whose every statement is about bytes of the old file."""
CAMERA = "http://ns.google.com/photos/1.0/camera/"
EXIF_XMP, PHOTOSHOP_XMP = "http://ns.adobe.com/exif/1.0/", "http://ns.adobe.com/photoshop/1.0/"
CORE, EXTENSION = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/", "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
LOST_NAMES = frozenset(
    {
        (xmp.TIFF, "Orientation"),
        (xmp.TIFF, "ImageWidth"),
        (xmp.TIFF, "ImageLength"),
        (EXIF_XMP, "PixelXDimension"),
        (EXIF_XMP, "PixelYDimension"),
        (xmp.NOTE, "HasExtendedXMP"),
        ("http://ns.adobe.com/xap/1.0/", "Thumbnails"),
    }
)
PLACES = frozenset(
    {
        (PHOTOSHOP_XMP, "City"),
        (PHOTOSHOP_XMP, "State"),
        (PHOTOSHOP_XMP, "Country"),
        (CORE, "Location"),
        (CORE, "CountryCode"),
        (EXTENSION, "LocationShown"),
        (EXTENSION, "LocationCreated"),
    }
)


def is_lost(name: Name) -> bool:
    """Whether an XMP property is about bytes or a position of the old file."""
    namespace, local = name
    in_camera = namespace == CAMERA and local.startswith(("MicroVideo", "MotionPhoto", "VideoMetadata"))
    return namespace in LOST_NAMESPACES or name in LOST_NAMES or in_camera


def is_place(name: Name) -> bool:
    """Whether an XMP property says where the picture was taken or what place it shows."""
    return name in PLACES or (name[0] == EXIF_XMP and name[1].startswith("GPS"))


def interpreted(found: Found, size: tuple[int, int], *, upright: bool = False) -> tuple[int, Metadata]:
    """The orientation (1 to 8) of a file's pixels of ``size`` (height, width), and its metadata as of after turning.

    EXIF's orientation counts, else XMP's; ``upright``: the decoder has turned the pixels, so neither does. Whatever is
    damaged is dropped and named; nothing raises.
    """
    dropped = ["the file's further pictures, videos or sounds"] if found.other_pictures else []
    dropped += dict.fromkeys(found.others)
    block = _exif_block(found.exif, dropped)
    stated = block.orientation if block is not None else None
    if stated is None and found.xmp is not None:
        stated = xmp.orientation_of(found.xmp)
    orientation = 1 if upright or stated is None else stated
    turned = size if orientation < 5 else size[::-1]
    resources, others = photoshop.kept(found.photoshop or b"")
    if others:
        dropped.append("Photoshop resources of the old file")
    return orientation, Metadata(
        exif=_cleaned_exif(block, turned, dropped),
        icc=found.icc,
        xmp=_cleaned_xmp(found, dropped),
        photoshop=resources or None,
        comments=found.comments,
        texts=found.texts,
        dpi=found.dpi if found.dpi is None or orientation < 5 else (found.dpi[1], found.dpi[0]),
        colour=found.colour,
        dropped=tuple(dropped),
    )


def _exif_block(block: bytes | None, dropped: list[str]) -> ExifBlock | None:
    if block is None:
        return None
    try:
        return ExifBlock(block)
    except ValueError as error:
        dropped.append(f"EXIF ({error})")
        return None


def _cleaned_exif(block: ExifBlock | None, size: tuple[int, int], dropped: list[str]) -> bytes | None:
    if block is None:
        return None
    try:
        block.turn_upright(size)
        block.drop_thumbnail()
    except ValueError as error:
        dropped.append(f"EXIF ({error})")
        return None
    dropped += dict.fromkeys(block.dropped)
    return block.tobytes()


def _cleaned_xmp(found: Found, dropped: list[str]) -> Packet | None:
    """The packet, with its extension, without what is about the old file."""
    packet = Packet()
    for part in (found.xmp, found.extended_xmp):
        if part:
            try:
                packet = packet.joined(xmp.parse(part))
            except XmpError as error:
                dropped.append(f"XMP ({error})")
    kept = packet.without(is_lost)
    about_lost_parts = packet.without(lambda name: not is_lost(name) or name in LOST_NAMES).properties
    if about_lost_parts:
        dropped.append("XMP statements on gain maps, depth maps or videos")
    return kept if kept.properties else None


def published(metadata: Metadata, policy: Policy) -> Metadata:
    """Metadata fit for publication: all of it, all but the location, or only what colours and print size need."""
    if policy == "keep":
        return metadata
    if policy == "none":
        return Metadata(icc=metadata.icc, dpi=metadata.dpi, colour=metadata.colour, dropped=metadata.dropped)
    block = None if metadata.exif is None else ExifBlock(metadata.exif)
    if block is not None:
        block.drop_location()
    return replace(
        metadata,
        exif=None if block is None else block.tobytes(),
        xmp=None if metadata.xmp is None else metadata.xmp.without(is_place),
        photoshop=None if metadata.photoshop is None else photoshop.without_location(metadata.photoshop),
    )


def fitted(metadata: Metadata, kind: str) -> Metadata:
    """Metadata that a file of format ``kind`` can hold; what it cannot is dropped and named."""
    dropped, changes = list(metadata.dropped), {}
    for row in TABLE:
        value, held = getattr(metadata, row.field), _held(row, kind, metadata)
        if held != value:
            changes[row.field] = held
            if row.field == "colour":
                names = [name.decode() for name, content in value if (name, content) not in held and name != b"sRGB"]
                dropped += [f"{row.short}: {', '.join(names)} ({kind.upper()} holds none)"] if names else []
            else:
                dropped.append(f"{row.short} ({kind.upper()} holds none)")
    metadata = replace(metadata, **changes)
    if kind == "jpeg":
        metadata = _in_segments(metadata, dropped)
    return replace(metadata, dropped=tuple(dict.fromkeys(dropped)))


def _held(row: Row, kind: str, metadata: Metadata) -> Any:
    """Of a field's value what a file of format ``kind`` can hold; plain sRGB is what is assumed without a signal."""
    if row.field == "colour" and kind in row.formats and kind != "png":
        beside_icc = kind == "avif" or metadata.icc is None  # libheif writes the one or the other
        return tuple(chunk for chunk in metadata.colour if chunk[0] == b"cICP" and beside_icc)
    return getattr(metadata if kind in row.formats else Metadata(), row.field)


def _in_segments(metadata: Metadata, dropped: list[str]) -> Metadata:
    """What a JPEG's segments hold, XMP aside (``Packet.split`` does that)."""
    exif, icc = metadata.exif, metadata.icc
    if exif is not None and len(exif) > SEGMENT:
        exif = ExifBlock(exif).compact()
        dropped.append("EXIF maker notes (a JPEG holds 64 kB of EXIF)")
        if len(exif) > SEGMENT:
            exif = None
            dropped.append("EXIF (a JPEG holds 64 kB of it)")
    if icc is not None and len(icc) > MAX_ICC:
        icc = None
        dropped.append("ICC profile (a JPEG holds 16 MB of it)")
    resources = metadata.photoshop
    if resources is not None and len(resources) > SEGMENT - len(photoshop.SIGNATURE):
        resources = None
        dropped.append("IPTC (a JPEG holds 64 kB of it)")
    comments = tuple(comment for comment in metadata.comments if len(comment) <= SEGMENT)
    if comments != metadata.comments:
        dropped.append("a comment (a JPEG holds 64 kB of it)")
    return replace(metadata, exif=exif, icc=icc, photoshop=resources, comments=comments)


def page() -> str:
    """docs/METADATA.md."""
    head = "| statement | " + " | ".join(KINDS) + " |\n|---" * 1 + "|---" * len(KINDS) + "|\n"
    rows = "".join(
        f"| {row.name} | " + " | ".join(row.formats.get(kind, "dropped") for kind in KINDS) + " |\n" for row in TABLE
    )
    notes = "".join(f"* **{row.name}.** {row.note}\n" for row in TABLE if row.note)
    everywhere = "".join(f"| {r.name} | {r.fate} | {r.why} |\n" for r in EVERYWHERE)
    return PAGE.format(head=head, rows=rows, notes=notes, everywhere=everywhere)


PAGE = """# What becomes of a photograph's metadata

Generated from the code by `python -m tasks.photos.metadata > docs/METADATA.md`; a test keeps it current, and another
writes and reads back every statement in every format.

## By the format that is written

{head}{rows}
{notes}
What a photo had and its picture has not is named in the column `metadata_dropped` of the photo's row.

## In every format

| statement | | why |
|---|---|---|
{everywhere}
## For publication

`--metadata` of `fixpoint dehaze` and `fixpoint edit` (setting `metadata`):

| value | what is left out |
|---|---|
| `keep` | nothing but the above |
| `no-location` | EXIF's GPS directory and maker notes (some cameras write place names there), places in XMP and IPTC |
| `none` | everything but the ICC profile, colour signals and resolution; with `--set provenance=false` also how it was made |
"""

if __name__ == "__main__":
    print(page(), end="")
