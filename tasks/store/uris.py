"""Where bytes live: which URLs are allowed, how they are shown, and names that cannot leave their root."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from tasks.store.errors import InvalidLocation

BUCKETS = frozenset({"s3", "gs", "az"})
WRITABLE = BUCKETS | {"file", "memory"}
WEB = frozenset({"http", "https"})

MAX_COMPONENT_BYTES = 200
"""File systems allow 255; the rest is for the picture's extension and digest."""
MAX_KEY_BYTES = 900
"""S3 allows 1024; the rest is for the output's own prefix."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_SECRET_QUERY = re.compile(
    r"[?&](x-amz-|x-goog-|signature=|sig=|token=|awsaccesskeyid=|googleaccessid=|expires=)", re.IGNORECASE
)
_METADATA_HOSTS = frozenset({"metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"})
_METADATA_ADDRESSES = frozenset({"fd00:ec2::254", "100.100.100.200", "168.63.129.16"})
_MARK = re.compile(r"~[0-9a-f]{16}")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\\:*?"<>|%\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')


@dataclass(frozen=True)
class Location:
    """One place: ``scheme``, ``bucket`` (or host, empty for local and memory) and ``path`` within it.

    A local path is absolute; other paths have no leading slash. Object names are taken literally, never
    percent-decoded, as the AWS tools do; only ``file://`` and web addresses are percent-encoded.
    """

    scheme: str
    bucket: str
    path: str

    def __str__(self) -> str:
        if self.scheme == "file":
            return "file://" + quote(self.path, errors="surrogateescape")
        return f"{self.scheme}://{self.bucket}/{self.path}" if self.bucket else f"{self.scheme}://{self.path}"

    def __truediv__(self, key: str) -> Location:
        separator = "" if not self.path or self.path.endswith("/") else "/"
        return Location(self.scheme, self.bucket, f"{self.path}{separator}{key}")


def parse(url: str, *, allow_http: bool = False) -> Location:
    """The location a URL or a local path names.

    Raises:
        InvalidLocation: for a scheme outside the allow-list, chained URLs, credentials inside the URL, or web
            addresses when ``allow_http`` is off or they lead to a machine's own metadata service.
    """
    if not url or "\0" in url:
        raise InvalidLocation(
            "The location is empty or holds a NUL character: give a folder or a URL like s3://bucket/p"
        )
    match = _SCHEME.fullmatch(url)
    if "::" in url.split("/", 1)[0]:
        raise InvalidLocation(f"Chained URLs are not supported: give the inner location of {public_uri(url)} directly")
    if match is None:
        return Location("file", "", str(Path(url).expanduser().absolute()))
    scheme, rest = match.group(1).lower(), match.group(2)
    if scheme in WEB:
        return _web(url, allow_http)
    if scheme not in WRITABLE:
        raise InvalidLocation(f"Scheme {scheme}:// is not supported: use a local folder, s3://, gs:// or az://")
    if "@" in rest.split("/", 1)[0]:
        raise InvalidLocation(
            f"{scheme}:// locations must not carry credentials: set them in the environment (AWS_ACCESS_KEY_ID, …)"
        )
    if scheme == "file":
        return _local(url, rest)
    if scheme == "memory":
        return Location(scheme, "", rest.strip("/"))
    return _bucket(url, scheme, rest)


def _local(url: str, rest: str) -> Location:
    host, slash, path = rest.partition("/")
    if host not in {"", "localhost"}:
        raise InvalidLocation(
            f"{public_uri(url)} names the host {host!r}: a local file URL has three slashes, file:///…"
        )
    return Location("file", "", str(Path(unquote(slash + path, errors="surrogateescape")).absolute()))


def _bucket(url: str, scheme: str, rest: str) -> Location:
    bucket, _, path = rest.partition("/")
    if not bucket or re.search(r"[^A-Za-z0-9._-]", bucket):
        raise InvalidLocation(f"{public_uri(url)} has no valid bucket name: write {scheme}://bucket/prefix")
    return Location(scheme, bucket, path)


def _web(url: str, allow_http: bool) -> Location:
    shown = public_uri(url)
    if not allow_http:
        raise InvalidLocation(f"{shown} is a web address: reading from the web is off; allow it with --allow-http")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidLocation(f"{shown} is not a valid web address: {error}") from error
    if not host or parts.username is not None:
        raise InvalidLocation(f"{shown} must name a host and carry no credentials")
    refuse_metadata_host(host)
    return Location(parts.scheme.lower(), parts.netloc, url.split("://", 1)[1].partition("/")[2])


def refuse_metadata_host(host: str) -> None:
    """Refuse hosts that are, or resolve to, link-local, metadata, multicast or unspecified addresses.

    Raises:
        InvalidLocation: if so. A host that does not resolve passes here and fails when it is read.
    """
    if host.rstrip(".").lower() in _METADATA_HOSTS:
        raise InvalidLocation(f"{host} is a cloud metadata service: photos are never read from there")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return
    for entry in found:
        refuse_metadata_address(str(entry[4][0]))


def refuse_metadata_address(address: str) -> None:
    """Refuse one numeric IP address as :func:`refuse_metadata_host` does."""
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.split("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or str(ip) in _METADATA_ADDRESSES:
        raise InvalidLocation(f"{ip} is a link-local or metadata address: photos are never read from there")


def public_uri(uri: str) -> str:
    """The URI as it may be logged: without credentials, and without a query or fragment that may hold a signature."""
    match = _SCHEME.fullmatch(uri)
    if match is None:
        return uri
    scheme, rest = match.groups()
    host, slash, path = rest.partition("/")
    host = host.rpartition("@")[2]
    if scheme.lower() in WEB or _SECRET_QUERY.search(rest):
        host, path = host.split("?")[0].split("#")[0], path.split("?")[0].split("#")[0]
    return f"{scheme}://{host}{slash}{path}"


def safe_key(relative: str) -> str:
    """An output key that keeps an input's relative path and cannot leave the output root.

    Unicode stays (NFC), ordinary names stay as they are. ``..``, absolute paths, drive letters, control and
    direction characters, ``%`` escapes and over-long names are replaced; a name that changed, or that looks
    as if it had, gets ``~`` and 16 hex digits of the original's SHA-256, so two inputs never share a key.
    """
    parts = [_safe_component(part) for part in unicodedata.normalize("NFC", relative).split("/") if part]
    key = "/".join(parts) or "_"
    if len(key.encode()) > MAX_KEY_BYTES:
        key = _shorten(parts[-1], MAX_COMPONENT_BYTES)
    if key == relative and not _MARK.search(relative):
        return key
    digest = hashlib.sha256(relative.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    folder, _, name = key.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    marked = f"{stem}~{digest}.{suffix}" if dot and stem else f"{name}~{digest}"
    return f"{folder}/{marked}" if folder else marked


def _safe_component(part: str) -> str:
    part = _UNSAFE.sub("_", part)
    part = part if part.strip(". ") else "_" * len(part)
    part = re.sub(r"[. ]+$", lambda end: "_" * len(end.group()), part)
    part = "_" + part[1:] if part.startswith(".") else part  # no hidden files; ours start with a dot
    return _shorten(part, MAX_COMPONENT_BYTES)


def _shorten(part: str, limit: int) -> str:
    """Cut the middle away and keep the extension; cuts fall between characters."""
    if len(part.encode()) <= limit:
        return part
    _, dot, suffix = part.rpartition(".")
    ending = (dot + suffix) if dot and len(suffix.encode()) <= 16 else ""
    body = part[: len(part) - len(ending)].encode()[: limit - len(ending.encode())]
    return body.decode(errors="ignore") + ending
