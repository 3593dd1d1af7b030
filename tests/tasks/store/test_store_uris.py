"""Which locations are allowed, what is logged of them, and names that cannot leave the output root."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
import unicodedata
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tasks.store import access as access_module
from tasks.store import errors, web
from tasks.store.access import Access, refuse_ip
from tasks.store.objects import open_store, read_uri
from tasks.store.pictures import picture_key
from tasks.store.retry import RetryPolicy
from tasks.store.uris import Address, Shown, parse, safe_key, show

QUICK = RetryPolicy(attempts=3, first_delay=0.001, max_delay=0.01, budget=5, request_timeout=2)


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("/data/photos", Address("file", "", "/data/photos")),
        ("file:///data/a%20b", Address("file", "", "/data/a b")),
        ("file://localhost/data", Address("file", "", "/data")),
        ("s3://bucket", Address("s3", "bucket", "")),
        ("S3://bucket/a b/100%.jpg", Address("s3", "bucket", "a b/100%.jpg")),
        ("s3://bucket/a?b#c", Address("s3", "bucket", "a?b#c")),
        ("gs://b.u-c_k/p/", Address("gs", "b.u-c_k", "p/")),
        ("az://container/p", Address("az", "container", "p")),
        ("memory://x/y", Address("memory", "", "x/y")),
    ],
)
def test_allowed_locations(url: str, location: Address) -> None:
    assert parse(url) == location
    assert parse(location.uri) == location


def test_a_relative_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("photos") == Address("file", "", str(tmp_path / "photos"))
    assert parse("file.with.dots") == Address("file", "", str(tmp_path / "file.with.dots"))


def test_keys_are_joined_with_one_slash() -> None:
    assert (parse("s3://b/p") / "k").uri == (parse("s3://b/p/") / "k").uri == "s3://b/p/k"
    assert (parse("s3://b") / "k").uri == "s3://b/k"
    assert (parse("/d") / "ü k").uri == "file:///d/%C3%BC%20k"


@pytest.mark.parametrize(
    "url",
    [
        "", "a\0b", "ftp://h/x", "gopher://h", "data://x", "simplecache::s3://b/k", "zip::s3://b/a.zip", "hf://x/y",
        "filecache::file:///etc/passwd", "s3://", "s3:///k", "s3://b:ad/k", "s3://KEY:canary@bucket/k", "gs://u@b/k",
        "file://otherhost/share", "javascript://x", "http://u:canary@h/", "http://", "http://[::1", "http://h:99999/",
    ],
)  # fmt: skip
def test_refused_locations(url: str) -> None:
    with pytest.raises(errors.InvalidLocation) as caught:
        parse(url)
    assert "canary" not in str(caught.value)


EVERY_NOTATION = [
    ("169.254.169.254", "link-local or metadata"), ("169.254.170.2", "link-local or metadata"),
    ("::ffff:169.254.169.254", "link-local or metadata"), ("::169.254.169.254", "link-local or metadata"),
    ("2002:a9fe:a9fe::1", "link-local or metadata"), ("64:ff9b::a9fe:a9fe", "link-local or metadata"),
    ("fe80::1%eth0", "link-local or metadata"), ("fd00:ec2::254", "link-local or metadata"),
    ("100.100.100.200", "link-local or metadata"), ("168.63.129.16", "link-local or metadata"),
    ("0.0.0.0", "link-local or metadata"), ("::", "link-local or metadata"), ("224.0.0.1", "link-local or metadata"),
    ("127.0.0.1", "private network"), ("127.8.9.1", "private network"), ("::1", "private network"),
    ("10.0.0.5", "private network"), ("172.16.1.1", "private network"), ("192.168.1.1", "private network"),
    ("100.64.0.1", "private network"), ("198.18.0.1", "private network"), ("fd12::1", "private network"),
    ("::ffff:10.0.0.5", "private network"), ("2002:7f00:1::", "private network"), ("64:ff9b::10.0.0.5", "private network"),
    ("64:ff9b:1::1", "private network"), ("fec0::1", "private network"),
    ("2001:0:7f00:1::", "private network"), ("240.0.0.1", "private network"),
]  # fmt: skip


@pytest.mark.parametrize(("ip", "reason"), EVERY_NOTATION)
def test_addresses_that_no_manifest_may_reach_are_refused_in_every_notation(ip: str, reason: str) -> None:
    with pytest.raises(errors.InvalidLocation, match=reason):
        refuse_ip(ip)


def test_public_addresses_are_met() -> None:
    for ip in ("1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"):
        refuse_ip(ip)


SITES = [
    "http://2852039166/", "http://0xA9FEA9FE/", "http://0251.0376.0251.0376/", "http://[::ffff:169.254.169.254]/",
    "http://metadata.google.internal/computeMetadata/v1/", "http://METADATA.google.internal./", "http://127.1/",
    "http://0x7f000001/", "http://localhost/", "http://[::1]/a.jpg", "http://[::ffff:7f00:1]/", "http://2130706433/",
]  # fmt: skip


@pytest.mark.parametrize("url", SITES)
def test_sites_of_this_machine_are_refused_even_when_the_web_is_allowed(url: str) -> None:
    with pytest.raises(errors.InvalidLocation):
        read_uri(url, QUICK, access=Access(http=True))


def test_an_operator_can_list_a_private_site_but_never_a_metadata_service() -> None:
    refuse_ip("10.0.0.5", private=True)
    with pytest.raises(errors.InvalidLocation):
        refuse_ip("::ffff:169.254.169.254", private=True)


def test_a_name_that_resolves_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for ip in ("169.254.169.254", "127.0.0.1", "10.1.2.3"):
        answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 0))]
        monkeypatch.setattr(access_module.socket, "getaddrinfo", lambda *_, answer=answer, **__: answer)
        with pytest.raises(errors.InvalidLocation, match=r"metadata|private"):
            read_uri("http://innocent.example/", QUICK, access=Access(http=True))


@pytest.mark.parametrize(
    ("uri", "root", "inside"),
    [
        ("/data/m/a.jpg", "/data/m", True),
        ("/data/m/../x.jpg", "/data/m", False),
        ("file:///data/m/%2e%2e/x.jpg", "/data/m", False),
        ("/data/m2/a.jpg", "/data/m", False),
        ("s3://b/any/k", "s3://b", True),
        ("s3://b/p2/k", "s3://b/p", False),
        ("s3://c/p/k", "s3://b/p", False),
        ("gs://b/p/k", "s3://b/p", False),
        ("http://h:80/p/a", "http://h/p", True),
        ("http://h/p/%2e%2e/a", "http://h/p", False),
        ("https://h/p/a", "http://h/p", False),
        ("http://h:8080/p", "http://h/p", False),
    ],
)
def test_what_lies_under_a_root(uri: str, root: str, inside: bool) -> None:
    assert Access.to(root).covers(parse(uri)) is inside


def test_a_link_out_of_a_root_is_outside(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (tmp_path / "root" / "a.jpg").symlink_to(tmp_path / "secret.jpg")
    assert not Access.to(str(tmp_path / "root")).covers(parse(str(tmp_path / "root" / "a.jpg")))


def test_text_is_never_an_address(tmp_path: Path) -> None:
    """What is shown of an address is another type: no reader takes it."""
    address = parse("https://h/p/photo.jpg?X-Amz-Signature=canary&X-Amz-Credential=canary")
    assert isinstance(address.shown, Shown)
    assert not isinstance(address.shown, str)
    assert address.signed
    for text in (str(address), repr(address), f"{address}", address.recorded, address.name):
        assert "canary" not in text
    assert "canary" in address.uri
    key = parse("s3://b/photo.jpg?sig=1.jpg")
    assert (key.path, key.recorded, key.name, key.signed) == (
        "photo.jpg?sig=1.jpg", "s3://b/photo.jpg?sig=1.jpg", "photo.jpg?sig=1.jpg", False,
    )  # fmt: skip
    with pytest.raises((TypeError, AttributeError)):
        read_uri(address.shown)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://b/k", "s3://b/k"),
        ("s3://b/what?#.jpg", "s3://b/what?#.jpg"),
        ("/local/p?token=x", "/local/p?token=x"),
        ("s3://KEY:canary@b/k", "s3://b/k"),
        ("https://u:canary@h/p?X-Amz-Signature=canary#canary", "https://h/p"),
        ("https://h?sig=canary", "https://h"),
        ("s3://b/k?X-Amz-Credential=canary&X-Amz-Signature=canary", "s3://b/k?…"),
        ("az://c/k?sv=1&sig=canary", "az://c/k?…"),
        ("gs://c/k?GoogleAccessId=canary&Signature=canary", "gs://c/k?…"),
        ("s3://b/line\nbreak\u202e.jpg", "s3://b/line\\nbreak\\u202e.jpg"),
    ],
)
def test_what_is_logged(uri: str, shown: str) -> None:
    assert str(show(uri)) == shown


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
    assert store.get(safe_key(name)) == read_uri(store.address(safe_key(name))) == b"x"
    assert [entry.key for entry in store.list()] == [safe_key(name)]
    assert [path.name for path in root.iterdir()] == ["output"]


class _Site(BaseHTTPRequestHandler):
    failures = 0

    def do_GET(self) -> None:
        if self.path == "/flaky" and _Site.failures:
            _Site.failures -= 1
            return self._reply(503, b"")
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to?"))
            self.end_headers()
            return None
        if self.path == "/drip":
            return self._drip()
        known = {"/photo.jpg": 200, "/flaky": 200, "/private": 403, "/short": 200}
        return self._reply(known.get(self.path.split("?")[0], 404), b"bytes")

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + 5 * (self.path == "/short")))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(1000):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def listed(site: str) -> Access:
    """The site as one that the operator lists."""
    return Access.to(site + "/", http=True)


def test_reading_from_the_web(site: str, listed: Access) -> None:
    with pytest.raises(errors.InvalidLocation, match="allow-http"):
        read_uri(f"{site}/photo.jpg")
    assert read_uri(f"{site}/photo.jpg?size=1", QUICK, access=listed) == b"bytes"
    _Site.failures = 2
    assert read_uri(f"{site}/flaky", QUICK, access=listed) == b"bytes"
    for path, kind in {
        "nope": errors.NotFound,
        "private": errors.AccessDenied,
        "short": errors.HostUnreachable,
        "to?http://169.254.169.254/latest/": errors.InvalidLocation,
        "to?http://127.0.0.1:1/": errors.InvalidLocation,
        "to?file:///etc/passwd": errors.InvalidLocation,
    }.items():
        with pytest.raises(kind):
            read_uri(f"{site}/{path}", QUICK, access=listed)
    with pytest.raises(errors.TooLarge, match="more than the 4 bytes"):
        read_uri(f"{site}/photo.jpg", QUICK, access=listed, max_bytes=4)


def test_a_loopback_site_is_read_only_where_it_is_listed(site: str) -> None:
    with pytest.raises(errors.InvalidLocation, match="--allow-root"):
        read_uri(f"{site}/photo.jpg", QUICK, access=Access(http=True))
    with pytest.raises(errors.InvalidLocation, match="--allow-root"):
        read_uri(f"{site}/photo.jpg", QUICK, access=Access.to(f"{site}/other/", http=True))


def test_a_server_that_drips_ends_at_the_deadline_of_one_object(site: str, listed: Access) -> None:
    policy = RetryPolicy(attempts=3, budget=5, request_timeout=2, object_timeout=0.5)
    start = time.monotonic()
    with pytest.raises(errors.TooSlow, match=r"not done after 0\.5 s|before the deadline"):
        read_uri(f"{site}/drip", policy, access=listed)
    assert time.monotonic() - start < 5


def test_a_dead_host_costs_its_photos_little_the_second_time() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    attempts = RetryPolicy(attempts=4, first_delay=0.2, max_delay=0.4, budget=5, request_timeout=1)
    seconds = []
    for _ in range(2):
        start = time.monotonic()
        with pytest.raises(errors.HostUnreachable):
            read_uri(dead, attempts, access=Access.to(dead, http=True))
        seconds.append(time.monotonic() - start)
    assert web._given_up
    assert seconds[1] < 0.2


def test_the_address_met_is_checked_not_only_the_name(
    site: str, listed: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is looked up once, and the numbers it stood for are what is connected to."""
    looked_up = []
    real = access_module.socket.getaddrinfo
    monkeypatch.setattr(
        access_module, "refuse_ip", lambda ip, **options: looked_up.append(ip) or refuse_ip(ip, **options)
    )
    monkeypatch.setattr(access_module.socket, "getaddrinfo", lambda *a, **k: real(*a, **k))
    read_uri(f"{site}/photo.jpg", QUICK, access=listed)
    assert looked_up == ["127.0.0.1"]


def test_a_proxy_does_not_open_private_addresses(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The site stands for a proxy that would fetch anything."""
    monkeypatch.setenv("http_proxy", site)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(errors.InvalidLocation, match="metadata"):
        read_uri("http://169.254.169.254/photo.jpg", QUICK, access=Access(http=True))
    with pytest.raises(errors.NotFound):
        read_uri("http://1.1.1.1/photo.jpg", QUICK, access=Access(http=True))
