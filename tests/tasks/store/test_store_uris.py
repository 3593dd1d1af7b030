"""Which locations are allowed, what is logged of them, and names that cannot leave the output root."""

from __future__ import annotations

import re
import socket
import threading
import unicodedata
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tasks.store import errors, web
from tasks.store.ledger import picture_key
from tasks.store.objects import open_store, read_uri
from tasks.store.retry import RetryPolicy
from tasks.store.uris import Location, parse, public_uri, refuse_metadata_address, safe_key

QUICK = RetryPolicy(attempts=3, first_delay=0.001, max_delay=0.01, budget=5, request_timeout=2)


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("/data/photos", Location("file", "", "/data/photos")),
        ("file:///data/a%20b", Location("file", "", "/data/a b")),
        ("file://localhost/data", Location("file", "", "/data")),
        ("s3://bucket", Location("s3", "bucket", "")),
        ("S3://bucket/a b/100%.jpg", Location("s3", "bucket", "a b/100%.jpg")),
        ("s3://bucket/a?b#c", Location("s3", "bucket", "a?b#c")),
        ("gs://b.u-c_k/p/", Location("gs", "b.u-c_k", "p/")),
        ("az://container/p", Location("az", "container", "p")),
        ("memory://x/y", Location("memory", "", "x/y")),
    ],
)
def test_allowed_locations(url: str, location: Location) -> None:
    assert parse(url) == location
    assert parse(str(location)) == location


def test_a_relative_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("photos") == Location("file", "", str(tmp_path / "photos"))
    assert parse("file.with.dots") == Location("file", "", str(tmp_path / "file.with.dots"))


def test_keys_are_joined_with_one_slash() -> None:
    assert str(parse("s3://b/p") / "k") == str(parse("s3://b/p/") / "k") == "s3://b/p/k"
    assert str(parse("s3://b") / "k") == "s3://b/k"
    assert str(parse("/d") / "ü k") == "file:///d/%C3%BC%20k"


@pytest.mark.parametrize(
    "url",
    [
        "", "a\0b", "ftp://h/x", "gopher://h", "data://x", "simplecache::s3://b/k", "zip::s3://b/a.zip", "hf://x/y",
        "filecache::file:///etc/passwd", "s3://", "s3:///k", "s3://b:ad/k", "s3://KEY:canary@bucket/k", "gs://u@b/k",
        "file://otherhost/share", "http://example.org/a.jpg", "https://example.org/a.jpg", "javascript://x",
    ],
)  # fmt: skip
def test_refused_locations(url: str) -> None:
    with pytest.raises(errors.InvalidLocation) as caught:
        parse(url)
    assert "canary" not in str(caught.value)


METADATA = [
    "http://169.254.169.254/latest/meta-data/", "http://169.254.170.2/v2/credentials", "http://2852039166/",
    "http://0xA9FEA9FE/", "http://0251.0376.0251.0376/", "http://[::ffff:169.254.169.254]/", "http://[fe80::1]/",
    "http://[fd00:ec2::254]/", "http://metadata.google.internal/computeMetadata/v1/", "http://METADATA.google.internal./",
    "http://100.100.100.200/", "http://168.63.129.16/", "http://0.0.0.0/", "http://224.0.0.1/",
    "http://user:canary@example.org/", "http://", "http://[::1", "http://h:99999/",
]  # fmt: skip


@pytest.mark.parametrize("url", METADATA)
def test_addresses_that_serve_credentials_are_refused_even_when_the_web_is_allowed(url: str) -> None:
    with pytest.raises(errors.InvalidLocation) as caught:
        parse(url, allow_http=True)
    assert "canary" not in str(caught.value)


def test_a_name_that_resolves_to_a_metadata_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    with pytest.raises(errors.InvalidLocation, match="link-local"):
        parse("http://innocent.example/", allow_http=True)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://b/k", "s3://b/k"),
        ("s3://b/what?#.jpg", "s3://b/what?#.jpg"),
        ("/local/p?token=x", "/local/p?token=x"),
        ("s3://KEY:canary@b/k", "s3://b/k"),
        ("https://u:canary@h/p?X-Amz-Signature=canary#canary", "https://h/p"),
        ("https://h?sig=canary", "https://h"),
        ("s3://b/k?X-Amz-Credential=canary&X-Amz-Signature=canary", "s3://b/k"),
        ("az://c/k?sv=1&sig=canary", "az://c/k"),
        ("gs://c/k?GoogleAccessId=canary&Signature=canary", "gs://c/k"),
    ],
)
def test_what_is_logged(uri: str, shown: str) -> None:
    assert public_uri(uri) == shown


PLAIN = [
    "a.jpg", "album/2024/ü 日本 🦊.jpg", "a+b=c&d#e.jpg", "x" * 180 + ".jpg", "a/b/c.tar.gz", "noextension", "a~b.jpg",
]  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert safe_key(name) == name


NASTY = [
    "../etc/passwd", "..", ".", "", "/", "/etc/passwd", "a/../../b", "C:\\Windows\\x", "C:/Windows/x", "..\\..\\x",
    "%2e%2e/%2e%2e/etc", "%2e%2e%2fetc", "a\0b.jpg", "a\nb.jpg", "a\rb.jpg", "\u202egpj.exe", "a//b", "./a", "a/.",
    "a/..", "...", ".hidden", "a/.tmp-1", "trailing.", "trailing ", "x" * 5000 + ".jpg", "/".join(["d" * 90] * 40),
    "ü" * 2000, "con|pipe<>.jpg", "cafe\u0301.jpg", "\ud800.jpg", "a\x85b", "~", "a~0123456789abcdef.jpg", "file:///etc",
]  # fmt: skip
NAME = st.text(st.characters(), max_size=60) | st.lists(
    st.sampled_from(["..", ".", "", "a", "b.jpg", "%2e%2e", "\0", "C:", "\\", "é", "e\u0301", "\u202e", "~", " ", "…"]),
    max_size=8,
).map("/".join) | st.sampled_from(NASTY)  # fmt: skip


def assert_safe(key: str, root: Path) -> None:
    path = (root / "images" / key).resolve()
    assert path.is_relative_to(root / "images")
    assert path != root / "images"
    assert unicodedata.is_normalized("NFC", key)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\\%:\u202a-\u202e\ud800-\udfff]", key)
    assert all(part not in {"", ".", ".."} and not part.startswith(".") for part in key.split("/"))
    assert len(key.encode()) <= 950
    assert all(len(part.encode()) <= 230 for part in key.split("/"))


@given(NAME)
@example("a~0123456789abcdef.jpg")
def test_keys_are_safe(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.getbasetemp().resolve()
    assert_safe(safe_key(name), root)
    assert_safe(picture_key(name, ".png").removeprefix("images/"), root)


@given(NAME, NAME)
def test_two_names_never_share_a_key(one: str, other: str) -> None:
    assert (safe_key(one) == safe_key(other)) == (one == other)


def test_nasty_names_are_all_different() -> None:
    once = [safe_key(name) for name in NASTY]
    made = [*once, *(safe_key(key) for key in once if safe_key(key) != key), *PLAIN]
    assert len(set(made)) == len(made)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NAME)
def test_names_round_trip_through_a_folder_and_stay_inside(tmp_path: Path, name: str) -> None:
    root = tmp_path / uuid.uuid4().hex
    root.mkdir()
    store = open_store(str(root / "output"))
    store.put(safe_key(name), b"x")
    assert store.get(safe_key(name)) == read_uri(str(store.location / safe_key(name))) == b"x"
    assert [entry.key for entry in store.list()] == [safe_key(name)]
    assert [path.name for path in root.iterdir()] == ["output"]


class _Site(BaseHTTPRequestHandler):
    failures = 0

    def do_GET(self) -> None:
        if self.path == "/flaky" and _Site.failures:
            _Site.failures -= 1
            return self._reply(503, b"")
        if self.path.startswith("/to-metadata"):
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/")
            self.end_headers()
            return None
        known = {"/photo.jpg": 200, "/flaky": 200, "/private": 403, "/short": 200}
        return self._reply(known.get(self.path.split("?")[0], 404), b"bytes")

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + 5 * (self.path == "/short")))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_reading_from_the_web(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.InvalidLocation, match="allow-http"):
        read_uri(f"{site}/photo.jpg")
    assert read_uri(f"{site}/photo.jpg?size=1", QUICK, allow_http=True) == b"bytes"
    _Site.failures = 2
    assert read_uri(f"{site}/flaky", QUICK, allow_http=True) == b"bytes"
    for path, kind in {
        "nope": errors.NotFound,
        "private": errors.AccessDenied,
        "short": errors.StoreUnavailable,
        "to-metadata": errors.InvalidLocation,
    }.items():
        with pytest.raises(kind):
            read_uri(f"{site}/{path}", QUICK, allow_http=True)
    monkeypatch.setattr(web, "MAX_BYTES", 4)
    with pytest.raises(errors.InvalidLocation, match="no photo is that large"):
        read_uri(f"{site}/photo.jpg", QUICK, allow_http=True)


def test_the_address_met_is_checked_not_only_the_name(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may resolve to a good address when checked and to a bad one when connected."""
    met = []
    monkeypatch.setattr(web, "refuse_metadata_address", met.append)
    read_uri(f"{site}/photo.jpg", QUICK, allow_http=True)
    assert met == ["127.0.0.1"]
    refuse_metadata_address("127.0.0.1")
