"""XMP packets: read within limits, thinned out, added to, split over a JPEG's segments."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree

import pytest

from tasks.photos import xmp
from tasks.photos.encode import Provenance
from tasks.photos.xmp import TIFF, XmpError, orientation_of, parse

MADE_BY = Provenance("Fixpoint 1.2.3", "run <7> & on", "sha256:abc")
DC = "http://purl.org/dc/elements/1.1/"


def packet(*properties: str, attributes: str = "", declared: str = "") -> bytes:
    """A packet with properties as elements and attributes."""
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{xmp.RDF}"><rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        f'xmlns:dc="{DC}" xmlns:tiff="{TIFF}" {declared} {attributes}>{"".join(properties)}</rdf:Description>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>' + " " * 2000
    ).encode()


TITLE = '<dc:title><rdf:Alt><rdf:li xml:lang="x-default">Höhe &amp; Tal</rdf:li></rdf:Alt></dc:title>'


def test_a_packet_is_added_to_and_a_second_run_replaces_its_own_statements() -> None:
    found = parse(packet(TITLE, attributes='xmp:Rating="4" xmp:CreatorTool="Camera"'))
    once = MADE_BY.added_to(found)
    text = once.tobytes().decode()
    assert once.value(("http://ns.adobe.com/xap/1.0/", "Rating")) == "4"
    assert once.value(("http://ns.adobe.com/xap/1.0/", "CreatorTool")) == "Fixpoint 1.2.3"
    assert 'xml:lang="x-default">Höhe &amp; Tal</rdf:li>' in text
    ElementTree.fromstring(text)
    assert MADE_BY.added_to(parse(once.tobytes())).tobytes() == once.tobytes()


def test_the_prefixes_that_people_know_stay_and_clashing_ones_are_told_apart() -> None:
    found = parse(
        packet(TITLE, '<lr:tag xmlns:lr="urn:lightroom">sky</lr:tag>', '<lr:tag xmlns:lr="urn:other">x</lr:tag>')
    )
    text = found.tobytes().decode()
    assert "<dc:title>" in text
    assert "<lr:tag>sky</lr:tag>" in text
    again = parse(found.tobytes())
    assert again.value(("urn:lightroom", "tag")) == "sky"
    assert again.value(("urn:other", "tag")) == "x"


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xff\xfe",
        b"<x",
        b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>",
        b"<a>" * 100 + b"</a>" * 100,
        b"<a>" + b"<b/>" * 200_000 + b"</a>",
        b"<a " + b"".join(b'a%d="" ' % i for i in range(150_000)) + b"/>",
        b" " * (xmp.MAX_BYTES + 1),
        packet().replace(b"xmp:", b"unbound:", 1) + b"<",
    ],
    ids=["empty", "no text", "cut off", "entities", "deep", "many elements", "many attributes", "large", "trailing"],
)
def test_what_is_no_packet_is_refused_quickly(bad: bytes) -> None:
    started = time.perf_counter()
    with pytest.raises(XmpError):
        parse(bad)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("size", [400_000, 3_000_000])
@pytest.mark.parametrize(
    "body",
    [
        "<rdf:Description xmlns:fixpoint=",
        'xmp:CreatorTool="',
        "<xmp:CreatorTool>",
        "<rdf:Description ",
        " ",
    ],
)
def test_time_is_linear_in_what_made_regular_expressions_crawl(body: str, size: int) -> None:
    """408 kB of such packets once took 100 s."""
    data = packet(body * (size // len(body)))
    started = time.perf_counter()
    orientation_of(data)
    assert time.perf_counter() - started < 3


def test_orientation_stands_as_attribute_as_element_or_in_a_packet_that_is_broken() -> None:
    assert orientation_of(packet(attributes='tiff:Orientation="6"')) == 6
    assert orientation_of(packet("<tiff:Orientation> 8 </tiff:Orientation>")) == 8
    assert orientation_of(packet('<t:Orientation xmlns:t="http://ns.adobe.com/tiff/1.0/">3</t:Orientation>')) == 3
    assert orientation_of(b'<rdf tiff:Orientation="6" <broken') == 6
    assert orientation_of(packet(attributes='tiff:Orientation="9"')) is None
    assert orientation_of(packet(TITLE)) is None


@pytest.mark.parametrize("sizes", [[100], [70_000], [30_000, 30_000, 30_000], [200_000, 5], [600] * 300])
def test_what_does_not_fit_moves_to_an_extended_packet_and_nothing_is_lost(sizes: list[int]) -> None:
    properties = [f"<dc:p{i}>{'x' * size}</dc:p{i}>" for i, size in enumerate(sizes)]
    whole = MADE_BY.added_to(parse(packet(TITLE, *properties)))
    standard, extended, guid = whole.split(65_504)
    assert len(standard) <= 65_504
    assert (extended is None) == (sum(sizes) < 60_000)
    joined = parse(standard) if extended is None else parse(standard).joined(parse(extended))
    assert (extended is None) or (guid.encode() in standard)
    assert {xmp.name_of(p) for p in joined.properties} - {(xmp.NOTE, "HasExtendedXMP")} == {
        xmp.name_of(p) for p in whole.properties
    }
    assert parse(standard).value(("urn:fixpoint-diffusion:xmp:1.0:", "RunId")) == "run <7> & on"
