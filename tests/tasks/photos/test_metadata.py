"""What becomes of a photograph's metadata: the table is what happens, and the page is the table."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from tasks.photos import metadata as module
from tasks.photos import photoshop, xmp
from tasks.photos.decode import Photo, decode_photo
from tasks.photos.encode import SUFFIXES, Provenance, encode_photo
from tasks.photos.exif import ExifBlock
from tasks.photos.formats import PhotoError, nclx_place
from tasks.photos.metadata import KINDS, TABLE, Metadata, page
from tasks.photos.tiff_tags import ASCII, LONG, SHORT, UNDEFINED, NewEntry, packed, structure
from tests.tasks.photos import zoo
from tests.tasks.photos.test_xmp import DC, TITLE, packet

MADE_BY = Provenance("Fixpoint 1.2.3", "run", "digest")
IIM = b"".join(
    b"\x1c" + bytes([record, number]) + struct.pack(">H", len(text)) + text
    for record, number, text in [
        (1, 90, b"\x1b%G"), (2, 5, b"Ridge"), (2, 25, b"haze"), (2, 90, b"Innsbruck"), (2, 101, b"Austria"),
    ]
)  # fmt: skip
FULL = Metadata(
    exif=b"Exif\0\0" + structure(packed("<", {271: (ASCII, b"Camera\0"), 274: (SHORT, (1,))}), "<"),
    icc=zoo.SRGB,
    xmp=xmp.parse(packet(TITLE, attributes='xmp:Rating="4"')),
    photoshop=photoshop.block(photoshop.IPTC, IIM) + photoshop.block(photoshop.COPYRIGHT_FLAG, b"\1"),
    comments=(b"scanned by hand",),
    texts=((b"tEXt", b"Author\0A. N."), (b"iTXt", b"Title\0\0\0\0\0H\xc3\xb6he")),
    dpi=(300.0, 150.0),
    colour=((b"cICP", bytes([12, 16, 0, 1])), (b"gAMA", struct.pack(">I", 100_000))),
)
SIGNATURES = {
    "exif": lambda m: m.exif is not None and b"Camera" in m.exif,
    "icc": lambda m: m.icc == zoo.SRGB,
    "xmp": lambda m: m.xmp is not None and m.xmp.value(("http://ns.adobe.com/xap/1.0/", "Rating")) == "4",
    "photoshop": lambda m: m.photoshop == FULL.photoshop,
    "comments": lambda m: m.comments == FULL.comments,
    "texts": lambda m: m.texts == FULL.texts,
    "dpi": lambda m: m.dpi == pytest.approx(FULL.dpi, abs=0.02),
    "colour": lambda m: dict(FULL.colour).items() >= dict(m.colour).items() and bool(m.colour),
}


def with_only(field: str, kind: str) -> Metadata:
    """Metadata of one field; of the colour signals those that a format can hold, if it can hold any."""
    value = getattr(FULL, field)
    if field == "colour" and kind in ("heic", "avif"):
        value = value[:1]
    return replace(Metadata(), **{field: value})


def test_the_page_is_current() -> None:
    assert Path("docs/METADATA.md").read_text() == page(), "python -m tasks.photos.metadata > docs/METADATA.md"


def test_the_table_names_every_field_and_only_formats_that_are_written() -> None:
    assert [row.field for row in TABLE] == [f.name for f in fields(Metadata)][:-1]
    assert set(KINDS) == set(SUFFIXES)
    assert all(set(row.formats) <= set(KINDS) for row in TABLE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.field)
def test_what_the_table_says_is_kept_comes_back_and_what_it_does_not_is_named(row: module.Row, kind: str) -> None:
    like = Photo(zoo.PICTURE, None, kind, metadata=with_only(row.field, kind))
    encoded = encode_photo(zoo.PICTURE, like)
    again = decode_photo(encoded.data).metadata
    assert SIGNATURES[row.field](again) == (kind in row.formats)
    assert (encoded.dropped == ()) == (kind in row.formats)
    assert all(row.short in text for text in encoded.dropped)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_together_and_twice(kind: str) -> None:
    """A picture written from a written picture says the same, in the same bytes."""
    like = Photo(zoo.PICTURE, None, kind, metadata=FULL)
    first = encode_photo(zoo.PICTURE, like, provenance=MADE_BY)
    again = decode_photo(first.data)
    second = encode_photo(zoo.PICTURE, replace(again, pixels=zoo.PICTURE), provenance=MADE_BY)
    assert second.data == first.data
    assert second.dropped == ()


def test_the_numbers_of_a_png_stay_with_an_avif_where_its_other_signals_cannot() -> None:
    encoded = encode_photo(zoo.PICTURE, Photo(zoo.PICTURE, None, "png", metadata=with_only("colour", "png")), "avif")
    place = nclx_place(encoded.data)
    assert place is not None
    assert encoded.data[place : place + 4] == bytes([0, 12, 0, 16])
    assert len(encoded.dropped) == 1
    assert "gAMA" in encoded.dropped[0]
    for cut in range(len(encoded.data)):  # a file that is cut off is no trouble
        assert nclx_place(encoded.data[:cut]) in (None, place)


# orientation


def jpeg_with(*segments: tuple[int, bytes], pixels: np.ndarray = zoo.PICTURE) -> bytes:
    """A JPEG with further segments behind its first marker."""
    data = zoo.save(pixels, "JPEG", quality=95, subsampling=0)
    parts = b"".join(struct.pack(">BBH", 0xFF, marker, len(part) + 2) + part for marker, part in segments)
    return data[:2] + parts + data[2:]


def raw_profile(name: bytes, content: bytes, kind: bytes) -> tuple[bytes, bytes]:
    text = b"\n" + kind + b"\n%8d\n" % len(content) + content.hex().encode() + b"\n"
    return b"zTXt", b"Raw profile type " + name + b"\0\0" + zlib.compress(text)


def png_chunk_with(name: bytes, content: bytes, pixels: np.ndarray) -> bytes:
    data = zoo.save(pixels, "PNG")
    return data[:33] + zoo.chunk(name, content) + data[33:]


def exif_bytes(orientation: int) -> bytes:
    return zoo.exif(orientation).tobytes()


def xmp_bytes(orientation: int) -> bytes:
    return packet(attributes=f'tiff:Orientation="{orientation}"')


TURNED = zoo.turned(zoo.PICTURE, 6)
ITXT = b"XML:com.adobe.xmp\0\0\0\0\0"
ELSEWHERE = {
    "jpeg exif": jpeg_with((0xE1, exif_bytes(6)), pixels=TURNED),
    "jpeg xmp": jpeg_with((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp_bytes(6)), pixels=TURNED),
    "jpeg both": jpeg_with(
        (0xE1, exif_bytes(6)), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp_bytes(6)), pixels=TURNED
    ),
    "jpeg exif counts": jpeg_with(
        (0xE1, exif_bytes(6)), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp_bytes(3)), pixels=TURNED
    ),
    "png eXIf": png_chunk_with(b"eXIf", exif_bytes(6)[6:], TURNED),
    "png xmp": png_chunk_with(b"iTXt", ITXT + xmp_bytes(6), TURNED),
    "png compressed xmp": png_chunk_with(b"iTXt", ITXT[:-4] + b"\1\0\0\0" + zlib.compress(xmp_bytes(6)), TURNED),
    "png raw profile exif": png_chunk_with(*raw_profile(b"exif", exif_bytes(6), b"exif"), TURNED),
    "png raw profile APP1": png_chunk_with(*raw_profile(b"APP1", exif_bytes(6), b"generic"), TURNED),
    "png raw profile xmp": png_chunk_with(*raw_profile(b"xmp", xmp_bytes(6), b"xmp"), TURNED),
    "webp exif": zoo.save(TURNED, "WEBP", lossless=True, exif=exif_bytes(6)),
    "webp xmp": zoo.save(TURNED, "WEBP", lossless=True, xmp=xmp_bytes(6)),
    "tiff tag": zoo.save(TURNED, "TIFF", exif=zoo.exif(6)),
    "tiff tag, compressed": zoo.tiff(TURNED, photometric="rgb", compression="lzw", extratags=[(274, 3, 1, 6, True)]),
    "tiff xmp": zoo.tiff(TURNED, photometric="rgb", extratags=[(700, 1, len(xmp_bytes(6)), xmp_bytes(6), True)]),
    "tiff xmp, 16 bits": zoo.tiff(
        TURNED.astype(np.uint16) * 257, photometric="rgb", extratags=[(700, 1, len(xmp_bytes(6)), xmp_bytes(6), True)]
    ),
    "avif": zoo.save(TURNED, "AVIF", quality=95, subsampling="4:4:4", exif=exif_bytes(6)),
}


@pytest.mark.long
@pytest.mark.parametrize("name", ELSEWHERE)
def test_orientation_is_honoured_wherever_it_stands_and_never_twice(name: str) -> None:
    original = decode_photo(ELSEWHERE[name])
    pixels = original.pixels >> 8 if original.pixels.dtype == np.uint16 else original.pixels
    assert pixels.shape == zoo.PICTURE.shape
    assert np.abs(pixels.astype(int) - zoo.PICTURE).mean() < 4
    for target in ("same", *KINDS):
        encoded = encode_photo(original.pixels, original, target, provenance=MADE_BY)
        assert decode_photo(encoded.data).size == original.size
        if not encoded.suffix == ".heic":
            seen = Image.open(io.BytesIO(encoded.data))
            assert (seen.size, seen.getexif().get(274, 1)) == (original.size[::-1], 1)


def test_a_heic_picture_is_turned_once() -> None:
    import pillow_heif

    upright = pillow_heif.from_pillow(Image.fromarray(zoo.PICTURE))
    stream = io.BytesIO()
    upright.save(stream, quality=95, exif=exif_bytes(6))  # stored with the transformation irot
    found = decode_photo(stream.getvalue())
    assert found.size == zoo.PICTURE.shape[1::-1] or found.size == zoo.PICTURE.shape[:2]
    again = decode_photo(encode_photo(found.pixels, found, provenance=MADE_BY).data)
    assert again.size == found.size


def test_pixel_dimensions_are_those_of_the_upright_picture() -> None:
    block = Image.Exif()
    block[274] = 6
    block.get_ifd(0x8769).update({0xA002: 60, 0xA003: 80})
    found = decode_photo(jpeg_with((0xE1, block.tobytes()), pixels=TURNED))
    written = Image.open(io.BytesIO(encode_photo(found.pixels, found).data)).getexif().get_ifd(0x8769)
    assert (written[0xA002], written[0xA003]) == (80, 60)


# EXIF of every wrong kind


BAD_TAGS = {
    "float where text": NewEntry(0x0131, 11, 1, struct.pack("<f", 1.5)),
    "text where number": NewEntry(0x9000, ASCII, 9, b"long ago\0"),
    "long where undefined": NewEntry(0x9000, LONG, 1, struct.pack("<I", 2300)),
    "bytes where rational": NewEntry(0x829A, UNDEFINED, 3, b"abc"),
    "a hundred thousand values": NewEntry(0x9286, UNDEFINED, 30_000, bytes(30_000)),
    "text that is none": NewEntry(0x010E, ASCII, 4, b"\xff\xfe\0\xd8"),
    "signed offset": NewEntry(0x0111, 9, 1, struct.pack("<i", -5)),
}


@pytest.mark.parametrize("target", ["same", *KINDS])
@pytest.mark.parametrize("name", BAD_TAGS)
def test_a_badly_typed_tag_neither_turns_the_photo_nor_costs_the_others(name: str, target: str) -> None:
    inner = (NewEntry(0x9004, ASCII, 5, b"when\0"), *([BAD_TAGS[name]] if BAD_TAGS[name].tag >= 0x8000 else []))
    outer = [*packed("<", {271: (ASCII, b"Camera\0"), 274: (SHORT, (6,))}), NewEntry(0x8769, LONG, 1, below=inner)]
    outer += [BAD_TAGS[name]] if BAD_TAGS[name].tag < 0x8000 else []
    original = decode_photo(jpeg_with((0xE1, b"Exif\0\0" + structure(outer, "<")), pixels=TURNED))
    assert original.size == (60, 80)
    encoded = encode_photo(original.pixels, original, target, provenance=MADE_BY)
    again = decode_photo(encoded.data)
    assert again.size == (60, 80)
    assert b"Camera" in (again.metadata.exif or b"")
    assert b"when" in (again.metadata.exif or b"")


@pytest.mark.parametrize(
    "kind", [(2, 9, b"no ICC..\0"), (3, 4, (1, 2, 3, 4)), (4, 2, (7, 8)), (5, 1, (1, 2)), (12, 1, (0.5,))]
)
@pytest.mark.parametrize("target", KINDS)
def test_a_colour_profile_of_a_wrong_type_fails_at_most_its_own_photo(
    kind: tuple[int, int, object], target: str
) -> None:
    data = zoo.tiff(zoo.PICTURE, photometric="rgb", extratags=[(34675, *kind, True)])
    try:
        original = decode_photo(data)
    except PhotoError:
        return
    written = encode_photo(original.pixels, original, target, provenance=MADE_BY)
    assert decode_photo(written.data).size == (60, 80)


def test_tags_that_cannot_be_read_go_alone_and_are_named() -> None:
    good = structure(packed("<", {271: (ASCII, b"Camera\0"), 274: (SHORT, (6,)), 306: (ASCII, b"2024\0")}), "<")
    outside = good.replace(struct.pack("<HHI", 271, 2, 7), struct.pack("<HHI", 271, 2, 70_000))
    strange = good.replace(struct.pack("<HHI", 306, 2, 5), struct.pack("<HHI", 306, 99, 5))
    for block, gone, left in ((outside, "0x010F", b"2024"), (strange, "0x0132", b"Camera")):
        found = decode_photo(jpeg_with((0xE1, b"Exif\0\0" + block), pixels=TURNED))
        assert found.size == (60, 80)
        assert f"EXIF tag {gone} (damaged)" in found.metadata.dropped
        assert left in (found.metadata.exif or b"")


@pytest.mark.parametrize("block", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08", b"no structure at all"])
def test_a_block_that_is_none_is_dropped_and_named(block: bytes) -> None:
    found = decode_photo(jpeg_with((0xE1, b"Exif\0\0" + block)))
    assert found.metadata.exif is None
    assert any(text.startswith("EXIF") for text in found.metadata.dropped)


def test_maker_notes_stay_where_they_stand() -> None:
    """Their inner offsets count from the start of the block."""
    note = b"Maker\0" + bytes(range(200))
    inner = (NewEntry(0x927C, UNDEFINED, len(note), note), NewEntry(0xA002, SHORT, 1, b"\x50\0"))
    block = b"Exif\0\0" + structure([*packed("<", {274: (SHORT, (6,))}), NewEntry(0x8769, LONG, 1, below=inner)], "<")
    found = decode_photo(jpeg_with((0xE1, block), pixels=TURNED))
    written = encode_photo(found.pixels, found).data
    assert written.index(note) - written.index(b"Exif\0\0") == block.index(note)


def test_the_thumbnail_is_gone_from_the_bytes_too() -> None:
    from tests.tasks.photos.test_photos import with_thumbnail

    found = decode_photo(zoo.save(zoo.PICTURE, "JPEG", exif=with_thumbnail(zoo.exif(1).tobytes())))
    assert "the thumbnail of the old picture" in found.metadata.dropped
    written = encode_photo(found.pixels, found).data
    assert written.count(b"\xff\xd8\xff") == 1
    assert not Image.open(io.BytesIO(written)).getexif().get_ifd(ExifTags.IFD.IFD1)


# what outgrows its segment


@pytest.mark.parametrize("size", [60_000, 64_900, 65_400, 100_000, 500_000])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_xmp_of_any_size_is_kept_in_a_jpeg(size: int, source: str) -> None:
    large = packet(TITLE, f"<dc:history>{'x' * size}</dc:history>")
    if source == "JPEG":
        room = 65_504 - len(packet(TITLE, "<dc:history></dc:history>"))
        large = packet(TITLE, f"<dc:history>{'x' * min(size, room)}</dc:history>")
        data = jpeg_with((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + large))
    elif source == "TIFF":
        data = zoo.tiff(zoo.PICTURE, photometric="rgb", extratags=[(700, 1, len(large), large, True)])
    elif source == "PNG":
        data = png_chunk_with(b"iTXt", ITXT + large, zoo.PICTURE)
    else:
        data = zoo.save(zoo.PICTURE, "WEBP", xmp=large)
    found = decode_photo(data)
    encoded = encode_photo(found.pixels, found, "jpeg", provenance=MADE_BY)
    again = decode_photo(encoded.data).metadata
    assert again.xmp is not None
    assert again.xmp.value((DC, "history")) == (found.metadata.xmp or xmp.Packet()).value((DC, "history"))
    assert b"Fixpoint 1.2.3" in Image.open(io.BytesIO(encoded.data)).info["xmp"]
    assert encoded.dropped == ()


def test_exif_profile_iptc_and_comments_that_outgrow_a_jpeg_are_trimmed_and_named() -> None:
    inner = (NewEntry(0x927C, UNDEFINED, 70_000, bytes(70_000)), NewEntry(0x9004, ASCII, 5, b"when\0"))
    camera = packed("<", {271: (ASCII, b"Camera\0")})
    trimmed = b"Exif\0\0" + structure([*camera, NewEntry(0x8769, LONG, 1, below=inner)], "<")
    hopeless = b"Exif\0\0" + structure([*camera, NewEntry(270, ASCII, 70_000, b"x" * 70_000)], "<")
    for block, kept in ((trimmed, True), (hopeless, False)):
        like = Photo(zoo.PICTURE, None, "jpeg", metadata=Metadata(
            exif=block, icc=bytes(17_000_000), comments=(b"x" * 70_000, b"short"),
            photoshop=photoshop.block(photoshop.IPTC, bytes(70_000)),
        ))  # fmt: skip
        encoded = encode_photo(zoo.PICTURE, like)
        again = decode_photo(encoded.data).metadata
        assert (b"Camera" in (again.exif or b"")) == kept
        assert again.comments == (b"short",)
        assert again.icc is None
        assert len(encoded.dropped) == (4 if kept else 5)


# what is about bytes of the old file


LOST = {
    "gain map": ('xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"', ""),
    "container": (
        'xmlns:Container="http://ns.google.com/photos/1.0/container/"',
        "<Container:Directory><rdf:Seq><rdf:li>GainMap</rdf:li></rdf:Seq></Container:Directory>",
    ),
    "apple gain map": (
        'xmlns:HDRGainMap="http://ns.apple.com/HDRGainMap/1.0/" HDRGainMap:HDRGainMapVersion="65536"',
        "",
    ),
    "motion photo": (
        'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1" GCamera:MicroVideoOffset="999"',
        "",
    ),
    "depth map": ('xmlns:GDepth="http://ns.google.com/photos/1.0/depthmap/" GDepth:Format="RangeInverse"', ""),
    "thumbnail": ("", "<xmp:Thumbnails><rdf:Alt><rdf:li>abcd</rdf:li></rdf:Alt></xmp:Thumbnails>"),
}


@pytest.mark.parametrize("name", LOST)
def test_statements_about_bytes_that_are_gone_go_too(name: str) -> None:
    declared, body = LOST[name]
    segment = (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet(TITLE, body, declared=declared))
    found = decode_photo(jpeg_with(segment))
    assert found.metadata.xmp is not None
    assert [xmp.name_of(p)[1] for p in found.metadata.xmp.properties] == ["title"]


def test_a_burst_is_still_one() -> None:
    declared = 'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:BurstID="7" GCamera:MotionPhoto="1"'
    found = decode_photo(jpeg_with((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet(declared=declared))))
    assert found.metadata.xmp is not None
    assert [xmp.name_of(p)[1] for p in found.metadata.xmp.properties] == ["BurstID"]


def test_photoshops_own_resources_go_and_are_named() -> None:
    blocks = (
        photoshop.block(0x040C, b"thumbnail") + photoshop.block(photoshop.IPTC, IIM) + photoshop.block(2000, b"path")
    )
    found = decode_photo(jpeg_with((0xED, photoshop.SIGNATURE + blocks)))
    assert found.metadata.photoshop == photoshop.block(photoshop.IPTC, IIM)
    assert "Photoshop resources of the old file" in found.metadata.dropped


# for publication


def gps() -> bytes:
    block = Image.Exif()
    block[271] = "Camera"
    block.get_ifd(0x8825).update({1: "N", 2: (47.0, 16.0, 5.0)})
    block.get_ifd(0x8769)[0x927C] = b"City: Innsbruck"
    loaded = Image.Exif()
    loaded.load(block.tobytes())
    return loaded.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_location_and_everything_can_be_left_out(kind: str) -> None:
    places = (
        'xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="47,16N" '
        'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" photoshop:City="Innsbruck" photoshop:Credit="A. N."'
    )
    own = replace(FULL, exif=gps(), xmp=xmp.parse(packet(TITLE, declared=places)), icc=None)
    like = Photo(zoo.PICTURE, None, kind, metadata=own)
    kept, public, bare = (
        encode_photo(zoo.PICTURE, like, provenance=MADE_BY, policy=policy).data  # type: ignore[arg-type]
        for policy in ("keep", "no-location", "none")
    )
    assert b"47,16N" in kept
    assert decode_photo(kept).metadata.exif is not None
    for word in (b"47,16N", b"Innsbruck", b"GPSLatitude"):
        assert word not in public
    found = decode_photo(public).metadata
    assert ExifBlock(found.exif or b"").first.find(0x8825) is None
    assert b"Camera" in (found.exif or b"")
    assert found.xmp is not None
    assert found.xmp.value(("http://ns.adobe.com/photoshop/1.0/", "Credit")) == "A. N."
    for word in (b"Camera", b"A. N.", b"scanned", b"Ridge"):
        assert word not in bare
    assert b"Fixpoint 1.2.3" in bare
    silent = encode_photo(zoo.PICTURE, like, policy="none").data
    assert (decode_photo(silent).metadata.exif, decode_photo(silent).metadata.xmp) == (None, None)


def test_iptc_places_go_and_the_rest_stays() -> None:
    found = photoshop.iptc(photoshop.without_location(photoshop.block(photoshop.IPTC, IIM)))
    assert found is not None
    assert b"Ridge" in found
    assert b"haze" in found
    assert b"Innsbruck" not in found
    assert b"Austria" not in found


# absurd amounts


def test_a_jpeg_with_absurdly_much_metadata_is_refused() -> None:
    with pytest.raises(PhotoError, match="MiB of metadata"):
        decode_photo(jpeg_with(*[(0xE5, bytes(65_000))] * 600))


SEGMENTS = {
    "C2PA": ((0xEB, b"JP\0\1jumb"), "segment APP11 JP"),
    "Ducky": ((0xEC, b"Ducky\0\1"), "segment APP12 Ducky"),
    "FlashPix": ((0xE2, b"FPXR\0"), "segment APP2 FPXR"),
    "JFXX": ((0xE0, b"JFXX\0\x10"), "segment APP0 JFXX"),
    "nameless": ((0xE7, b"\0\1\2"), "segment APP7"),
    "escape": ((0xE7, b"\x1b[31m"), "segment APP7"),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_segments_that_no_picture_is_written_with_are_named(name: str) -> None:
    segment, said = SEGMENTS[name]
    assert decode_photo(jpeg_with(segment, segment)).metadata.dropped == (said,)


def test_what_every_jpeg_has_is_not_named() -> None:
    plain = zoo.save(zoo.PICTURE, "JPEG", exif=zoo.exif(1), icc_profile=zoo.SRGB, comment=b"c", dpi=(300, 300))
    cmyk = zoo.save(Image.fromarray(zoo.PICTURE).convert("CMYK"), "JPEG")
    assert decode_photo(plain).metadata.dropped == ()
    assert decode_photo(cmyk).metadata.dropped == ("CMYK (converted to sRGB)",)


def test_a_second_packet_and_a_second_block_are_named() -> None:
    packet, block = (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp_bytes(1)), (0xE1, exif_bytes(1))
    found = decode_photo(jpeg_with(packet, block, packet, block)).metadata.dropped
    assert found == ("a second XMP packet", "a second EXIF block")


@pytest.mark.parametrize("name", [b"caBX", b"tIME", b"bKGD", b"sBIT", b"vpAg"])
def test_chunks_of_png_that_no_picture_is_written_with_are_named(name: bytes) -> None:
    found = decode_photo(png_chunk_with(name, bytes(6) if name == b"bKGD" else bytes(3), zoo.PICTURE)).metadata.dropped
    assert found == (f"chunk {name.decode()}",)


def test_chunks_of_webp_are_named_too() -> None:
    data = zoo.save(zoo.PICTURE, "WEBP", lossless=True, exif=exif_bytes(1)) + b"C2PA" + struct.pack("<I", 3) + b"abc\0"
    data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    assert decode_photo(data).metadata.dropped == ("chunk C2PA",)


@pytest.mark.parametrize("name", [b"tEXt", b"iTXt", b"zTXt", b"tIME", b"pHYs", b"vpAg"])
def test_a_chunk_that_only_tells_costs_itself_when_its_checksum_is_wrong(name: bytes) -> None:
    good = png_chunk_with(name, b"Author\0me", zoo.PICTURE)
    bad = zoo.patched(good, good.index(name) + 12, b"X")
    found = decode_photo(bad)
    np.testing.assert_array_equal(found.pixels, zoo.PICTURE)
    assert found.metadata.dropped == (f"chunk {name.decode()} (damaged)",)


@pytest.mark.parametrize("name", [b"tRNS", b"iCCP", b"eXIf"])
def test_a_chunk_that_says_how_to_show_the_picture_does_not_go_unseen(name: bytes) -> None:
    good = png_chunk_with(name, bytes(6), zoo.PICTURE)
    with pytest.raises(PhotoError):
        decode_photo(zoo.patched(good, good.index(name) + 5, b"X"))


def test_png_texts_are_unpacked_within_limits() -> None:
    bomb = png_chunk_with(b"iTXt", ITXT[:-4] + b"\1\0\0\0" + zlib.compress(b" " * 20_000_000), zoo.PICTURE)
    with pytest.raises(PhotoError):
        decode_photo(bomb)
