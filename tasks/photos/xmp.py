"""XMP packets: read into properties within limits, added to, thinned out, and written again.

A packet is normalised to one rdf:Description whose properties are all elements, which says the same (XMP specification
part 1, 7.4 and 7.9). Prefixes stay as they were found.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

MAX_BYTES = 4 << 20
MAX_ELEMENTS = 100_000
MAX_DEPTH = 64
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XML = "http://www.w3.org/XML/1998/namespace"
TIFF = "http://ns.adobe.com/tiff/1.0/"
NOTE = "http://ns.adobe.com/xmp/note/"
KNOWN = {
    RDF: "rdf",
    XML: "xml",
    TIFF: "tiff",
    NOTE: "xmpNote",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "Iptc4xmpExt",
    "urn:fixpoint-diffusion:xmp:1.0:": "fixpoint",
}
HEAD = f"""<?xpacket begin="\N{ZERO WIDTH NO-BREAK SPACE}" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">
<rdf:Description rdf:about="\""""
TAIL = """</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""
ORIENTATION_ANYWHERE = re.compile(rb"tiff:Orientation(?:\s{0,9}=\s{0,9}[\"']|>)\s{0,9}([1-8])\b")
"""In a packet that is no XML, as other programs read it."""

Name = tuple[str, str]
"""Namespace and local name."""


class XmpError(ValueError):
    """A packet that is not well-formed, or beyond the limits. The message says which, in a few words."""


@dataclass(frozen=True)
class Packet:
    """The properties of a packet, in order, and the prefixes it used by namespace."""

    properties: tuple[Element, ...] = ()
    prefixes: Mapping[str, str] = field(default_factory=lambda: KNOWN)

    def without(self, unwanted: Callable[[Name], bool]) -> Packet:
        """Those properties whose names are not ``unwanted``."""
        return replace(self, properties=tuple(p for p in self.properties if not unwanted(name_of(p))))

    def stating(self, statements: Mapping[Name, str]) -> Packet:
        """With simple properties, which replace those of the same names."""
        added = []
        for (namespace, local), value in statements.items():
            added.append(Element(f"{{{namespace}}}{local}"))
            added[-1].text = value
        kept = self.without(lambda name: name in statements).properties
        return replace(self, properties=(*kept, *added))

    def joined(self, other: Packet) -> Packet:
        """With the properties of another packet."""
        return Packet(self.properties + other.properties, {**other.prefixes, **self.prefixes})

    def value(self, name: Name) -> str | None:
        """The text of a simple property."""
        return next(((p.text or "").strip() for p in self.properties if name_of(p) == name), None)

    def tobytes(self) -> bytes:
        """The packet as UTF-8."""
        prefixes = _unique_prefixes(self)
        body = "".join(_text(p, prefixes) + "\n" for p in self.properties)
        used = sorted((prefix, uri) for uri, prefix in prefixes.items() if uri not in (RDF, XML))
        declared = "".join(f" xmlns:{prefix}={quoteattr(uri)}" for prefix, uri in used)
        return f"{HEAD}{declared}>\n{body}{TAIL}".encode("utf-8", "replace")

    def split(self, limit: int) -> tuple[bytes, bytes | None, str]:
        """(standard packet of at most ``limit`` bytes, extended packet or None, its GUID): the largest properties move.

        XMP specification part 3, 1.1.3.1: the extended packet's GUID is its MD5, and stands in the standard packet.
        """
        whole = self.tobytes()
        if len(whole) <= limit:
            return whole, None, ""
        prefixes = _unique_prefixes(self)
        sizes = sorted(((len(_text(p, prefixes).encode()), i) for i, p in enumerate(self.properties)), reverse=True)
        moved, excess = set[int](), len(whole) - limit + 256
        while len(moved) < len(sizes):
            while excess > 0 and len(moved) < len(sizes):
                size, i = sizes[len(moved)]
                moved.add(i)
                excess -= size
            standard, extended, guid = self._parted(moved)
            if len(standard) <= limit:
                return standard, extended, guid
            excess = len(standard) - limit
        raise AssertionError("an empty packet fits")

    def _parted(self, moved: set[int]) -> tuple[bytes, bytes, str]:
        """The packet without and with only the properties at ``moved``, and the GUID that ties the two."""
        large = tuple(p for i, p in enumerate(self.properties) if i in moved)
        small = tuple(p for i, p in enumerate(self.properties) if i not in moved)
        extended = replace(self, properties=large).tobytes()
        guid = hashlib.md5(extended, usedforsecurity=False).hexdigest().upper()
        standard = replace(self, properties=small).stating({(NOTE, "HasExtendedXMP"): guid})
        return standard.tobytes(), extended, guid


def name_of(element: Element) -> Name:
    """Namespace and local name of an element."""
    namespace, _, local = element.tag[1:].rpartition("}") if element.tag.startswith("{") else ("", "", element.tag)
    return namespace, local


def orientation_of(packet: bytes) -> int | None:
    """The EXIF orientation that a packet states, also one that is not well-formed; None if it does not."""
    try:
        stated = parse(packet).value((TIFF, "Orientation"))
    except XmpError:
        found = ORIENTATION_ANYWHERE.search(packet[:MAX_BYTES])
        stated = found.group(1).decode() if found else None
    return int(stated) if stated in tuple("12345678") else None


def parse(packet: bytes) -> Packet:
    """The properties of a packet. Raises XmpError; time and memory are linear in at most ``MAX_BYTES``."""
    if len(packet) > MAX_BYTES:
        raise XmpError(f"larger than {MAX_BYTES >> 20} MiB")
    reader = _Reader()
    try:
        reader.parser.Parse(packet.strip(b"\0 \r\n\t"), True)
        root = reader.builder.close()
    except (expat.ExpatError, AssertionError) as error:
        raise XmpError("not well-formed") from error
    descriptions = [d for rdf in root.iter(f"{{{RDF}}}RDF") for d in rdf if d.tag == f"{{{RDF}}}Description"]
    return Packet(tuple(p for d in descriptions for p in _properties(d)), {**reader.prefixes, **KNOWN})


class _Reader:
    """Feeds expat's events to a tree; refuses document types, and more elements or depth than the limits."""

    def __init__(self) -> None:
        self.builder, self.prefixes = TreeBuilder(), dict[str, str]()
        self.elements = self.depth = 0
        self.parser = expat.ParserCreate(namespace_separator="}")
        self.parser.buffer_text = True
        self.parser.StartNamespaceDeclHandler = self._namespace
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self.builder.data
        self.parser.StartDoctypeDeclHandler = self._refuse

    def _namespace(self, prefix: str | None, uri: str | None) -> None:
        if prefix and uri and len(self.prefixes) < MAX_ELEMENTS:
            self.prefixes.setdefault(uri, prefix)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.elements += 1 + len(attributes)
        self.depth += 1
        if self.elements > MAX_ELEMENTS or self.depth > MAX_DEPTH:
            raise XmpError("too many or too deeply nested elements")
        self.builder.start(_braced(name), {_braced(key): value for key, value in attributes.items()})

    def _end(self, name: str) -> None:
        self.depth -= 1
        self.builder.end(_braced(name))

    def _refuse(self, *_: object) -> NoReturn:
        raise XmpError("a document type declaration")


def _braced(name: str) -> str:
    return "{" + name if "}" in name else name


def _properties(description: Element) -> Iterable[Element]:
    """Those written as attributes, then those written as elements."""
    for name, value in description.attrib.items():
        if name.startswith("{") and not name.startswith((f"{{{RDF}}}", f"{{{XML}}}")):
            simple = Element(name)
            simple.text = value
            yield simple
    yield from description


def _unique_prefixes(packet: Packet) -> dict[str, str]:
    """A prefix of its own for each namespace used."""
    uris = dict.fromkeys(
        name.rpartition("}")[0][1:]
        for top in packet.properties
        for element in top.iter()
        for name in (element.tag, *element.attrib)
        if name.startswith("{")
    )
    prefixes = {RDF: "rdf", XML: "xml"}
    taken = {"rdf", "xml", "x"}
    for number, uri in enumerate(uris):
        if uri not in prefixes:
            prefix = packet.prefixes.get(uri, f"ns{number}")
            prefixes[uri] = prefix if prefix not in taken else f"ns{number}"
            taken.add(prefixes[uri])
    return prefixes


def _text(element: Element, prefixes: Mapping[str, str]) -> str:
    """An element as XML."""
    name = _prefixed(element.tag, prefixes)
    attributes = "".join(f" {_prefixed(key, prefixes)}={quoteattr(value)}" for key, value in element.attrib.items())
    inner = "".join(_text(child, prefixes) for child in element)
    text = (element.text or "") if not inner or (element.text or "").strip() else ""
    content = escape(text) + inner
    return f"<{name}{attributes}>{content}</{name}>" if content else f"<{name}{attributes}/>"


def _prefixed(name: str, prefixes: Mapping[str, str]) -> str:
    uri, brace, local = name.rpartition("}")
    return f"{prefixes[uri[1:]]}:{local}" if brace else local
