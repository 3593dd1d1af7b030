"""Where bytes live: which addresses are allowed, how they are shown, and names that cannot leave their root.

An :class:`Address` is what bytes are read by; :class:`Shown` is what people see of it. They are different types, so text
from which a secret was taken can never be read by: it would be another object.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

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
_SIGNATURES = (
    {"x-amz-signature", "x-amz-credential"},
    {"x-goog-signature", "x-goog-credential"},
    {"signature", "expires"},
    {"sig", "sv"},
    {"sig", "se"},
)
"""Query parameters that occur together in presigned URLs of S3, Google and Azure."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_URL_TEXT = "%/:=&?~+!$,;'@()*[]|"
"""What stays as it is in a web address; everything else beyond letters and digits is percent-encoded."""
_TABLE = "parquet+"
"""Before the scheme of a table in which a picture lies; what follows the last ``#`` names the cell."""
_MARK = re.compile(r"~[0-9a-f]{16}")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\\:*?"<>|%\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')


@dataclass(frozen=True)
class Shown:
    """Text for people: an address without credentials, signatures and control characters. Not a ``str`` on purpose."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Cell:
    """A picture inside a Parquet table: its column, and its row from 0."""

    column: str
    row: int


@dataclass(frozen=True, repr=False)
class Address:
    """One place: ``scheme``, ``bucket`` (or host, empty for local and memory) and ``path`` within it.

    With a ``cell`` it is a picture inside the Parquet table there, written ``parquet+s3://bucket/t.parquet#image/12``.

    A local path is absolute; other paths are what follows the first slash. Object names are taken literally, never
    percent-decoded, as the AWS tools do: ``?`` and ``#`` are parts of them. Only ``file://`` and web addresses are
    percent-encoded. As text it is :attr:`shown`.
    """

    scheme: str
    bucket: str
    path: str
    cell: Cell | None = None

    @property
    def uri(self) -> str:
        """The whole address, to be read by: of a presigned web address this is a secret."""
        if self.cell is not None:
            return f"{_TABLE}{self.file.uri}#{quote(self.cell.column, safe='')}/{self.cell.row}"
        if self.scheme == "file":
            return "file://" + quote(self.path, errors="surrogateescape")
        return f"{self.scheme}://{self.bucket}/{self.path}" if self.bucket else f"{self.scheme}://{self.path}"

    @property
    def file(self) -> Address:
        """The file or object as a whole."""
        return replace(self, cell=None)

    @property
    def shown(self) -> Shown:
        """The address for messages and logs."""
        return show(self.uri)

    @property
    def recorded(self) -> str:
        """The address as rows keep it: exact for files and objects; of the web without the query, which may be signed."""
        return str(self.shown) if self.scheme in WEB else self.uri

    @property
    def name(self) -> str:
        """The last part of the path, decoded where the address is percent-encoded; no query."""
        if self.cell is not None:
            return f"{self.file.name}/{self.cell.row}"
        if self.scheme not in WEB:
            return self.path.rpartition("/")[2]
        return unquote(re.split("[?#]", self.path)[0].rpartition("/")[2])

    @property
    def parent(self) -> Address:
        """The folder it lies in, without a query."""
        path = self.path.split("?")[0] if self.scheme in WEB else self.path
        return Address(self.scheme, self.bucket, path.rpartition("/")[0] or ("/" if self.scheme == "file" else ""))

    @property
    def signed(self) -> bool:
        """Whether the address carries a signature with its sidecars, as presigned URLs and SAS tokens do."""
        names = {name.lower() for name, _ in parse_qsl(self.path.partition("?")[2], keep_blank_values=True)}
        return any(names >= pair for pair in _SIGNATURES)

    def __str__(self) -> str:
        return str(self.shown)

    def __repr__(self) -> str:
        return f"Address({self.shown})"

    def __truediv__(self, key: str) -> Address:
        separator = "" if not self.path or self.path.endswith("/") else "/"
        return Address(self.scheme, self.bucket, f"{self.path}{separator}{key}")


def parse(url: str) -> Address:
    """The address that a URL or a local path names. Whether it may be read is for :mod:`tasks.store.access` to say.

    Raises:
        InvalidLocation: for a scheme outside the allow-list, chained URLs, or credentials before the host.
    """
    if not url or "\0" in url:
        raise InvalidLocation(
            "The location is empty or holds a NUL character: give a folder or a URL like s3://bucket/p"
        )
    if not _encodable(url):
        raise InvalidLocation(f"{show(url)} holds half a character, which no name can: write it in UTF-8")
    match = _SCHEME.fullmatch(url)
    if "::" in url.split("/", 1)[0]:
        raise InvalidLocation(f"Chained URLs are not supported: give the inner location of {show(url)} directly")
    if match is None:
        return Address("file", "", str(_at_home(url).absolute()))
    scheme, rest = match.group(1).lower(), match.group(2)
    if scheme.startswith(_TABLE):
        return _cell(url)
    if scheme in WEB:
        return _web(url)
    if scheme not in WRITABLE:
        raise InvalidLocation(
            f"Scheme {scheme}:// is not supported: use a local folder, s3://, gs://, az:// or https://"
        )
    if "@" in rest.split("/", 1)[0]:
        raise InvalidLocation(
            f"{scheme}:// locations must not carry credentials: set them in the environment (AWS_ACCESS_KEY_ID, …)"
        )
    if scheme == "file":
        return _local(url, rest)
    if scheme == "memory":
        return Address(scheme, "", rest.strip("/"))
    return _bucket(url, scheme, rest)


def _encodable(url: str) -> bool:
    """Whether the text has bytes: of a local path those of a name that is no UTF-8, too."""
    try:
        url.encode(errors="strict" if _SCHEME.match(url) else "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _at_home(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InvalidLocation(f"{show(path)} names the home folder of nobody here: write ./{show(path)}") from None


def _cell(url: str) -> Address:
    inner, _, cell = url[len(_TABLE) :].rpartition("#")
    column, _, row = cell.rpartition("/")
    file = parse(inner) if _SCHEME.fullmatch(inner) else None
    if file is None or file.scheme not in WRITABLE or file.cell or not column or not re.fullmatch("[0-9]{1,12}", row):
        raise InvalidLocation(f"{show(url)} names no picture in a table: write {_TABLE}s3://bucket/t.parquet#image/12")
    return replace(file, cell=Cell(unquote(column), int(row)))


def _local(url: str, rest: str) -> Address:
    host, slash, path = rest.partition("/")
    if host not in {"", "localhost"}:
        raise InvalidLocation(f"{show(url)} names the host {host!r}: a local file URL has three slashes, file:///…")
    return Address("file", "", str(Path(unquote(slash + path, errors="surrogateescape")).absolute()))


def _bucket(url: str, scheme: str, rest: str) -> Address:
    bucket, _, path = rest.partition("/")
    if not bucket or re.search(r"[^A-Za-z0-9._-]", bucket):
        raise InvalidLocation(f"{show(url)} has no valid bucket name: write {scheme}://bucket/prefix")
    return Address(scheme, bucket, path)


def _web(url: str) -> Address:
    shown = show(url)
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError as error:  # UnicodeError is one
        raise InvalidLocation(f"{shown} is not a valid web address: {type(error).__name__}") from None
    if not host or "@" in parts.netloc or re.search(r"[^A-Za-z0-9.:%\[\]_-]", host):
        raise InvalidLocation(f"{shown} must name a host and carry no credentials")
    netloc = f"[{host}]" if ":" in host else host
    path = parts.path.removeprefix("/") + (f"?{parts.query}" if parts.query else "")
    scheme, port = parts.scheme.lower(), parts.port
    plain = port in (None, {"http": 80, "https": 443}[scheme])
    return Address(scheme, netloc if plain else f"{netloc}:{port}", quote(path, safe=_URL_TEXT))


def show(text: str) -> Shown:
    """Any text that may be an address, as it may be shown: no credentials, no query that may hold a signature."""
    match = _SCHEME.fullmatch(text)
    if match is None:
        return Shown(_visible(text))
    scheme, rest = match.groups()
    host, slash, path = rest.partition("/")
    host = host.rpartition("@")[2]
    if scheme.lower() in WEB:
        host, path = re.split("[?#]", host)[0], re.split("[?#]", path)[0]
    elif _SECRET_QUERY.search(path):
        path = path.split("?")[0] + "?…"
    return Shown(_visible(f"{scheme}://{host}{slash}{path}"))


def _visible(text: str) -> str:
    """Control and direction characters as escapes, so that a name cannot rewrite the line it stands in."""
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], text)


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
