"""S3 as it is met: public buckets, buckets whose readers pay, profiles, endpoints of the environment, odd keys."""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from tasks.photos.sources import list_photos
from tasks.store import errors
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store, read_uri, stat_uri
from tasks.store.planned import PlannedPhoto
from tasks.store.retry import RetryPolicy
from tasks.store.uris import parse
from tasks.store.versions import is_served, read_planned
from tests.servers import S3Server

QUICK = RetryPolicy(attempts=2, first_delay=0.01, max_delay=0.05, budget=20, request_timeout=10)
SETTINGS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "FIXPOINT_S3_ANONYMOUS", "FIXPOINT_S3_REQUESTER_PAYS",
)  # fmt: skip
JPEG = b"\xff\xd8\xff"
ODD_KEYS = ["/lead.jpg", "//two.jpg", "p//b.jpg", "p/b.jpg", "p/ /c.jpg", "p///d.jpg"]
"""Keys that a file system would take for one another; each holds its own name."""


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without settings for AWS; the folder that its files would lie in."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


class Wire(BaseHTTPRequestHandler):
    """Answers every request of an S3 client and keeps its headers."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[dict[str, str]]] = []

    def _answer(self) -> None:
        self.seen.append({"line": f"{self.command} {self.path}", **{k.lower(): v for k, v in self.headers.items()}})
        size = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(size)
        listing = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
        body = listing if "list-type" in self.path else JPEG if self.command in {"GET", "HEAD"} else b""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"tag"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_DELETE = _answer

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def wire(bare: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The headers of every request from now on, with a key and an endpoint in the environment."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Wire)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    Wire.seen.clear()
    return Wire.seen


def touch_everything(bucket: str) -> None:
    store = open_store(f"s3://{bucket}/p", QUICK)
    list(store.list())
    for look in (store.get, store.stat, lambda key: store.get_head(key, 3), lambda key: store.get_tail(key, 3)):
        look("a.jpg")
    store.put("a.jpg", JPEG)
    store.put_new("b.jpg", JPEG)
    store.delete("a.jpg")
    read_uri(f"s3://{bucket}/p/a.jpg", QUICK)


@pytest.mark.long
@pytest.mark.parametrize(("setting", "anonymous"), [("", False), ("other", False), ("open", True), ("a, open", True)])
def test_only_buckets_named_as_anonymous_are_asked_without_a_signature(
    wire: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, setting: str, anonymous: bool
) -> None:
    monkeypatch.setenv("FIXPOINT_S3_ANONYMOUS", setting)
    touch_everything("open")
    assert len(wire) == 9
    assert {"authorization" in headers for headers in wire} == {not anonymous}


@pytest.mark.long
@pytest.mark.parametrize(("setting", "pays"), [("", False), ("other", False), ("dear", True), ("*", True)])
def test_only_for_buckets_named_so_every_request_says_who_pays(
    wire: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, setting: str, pays: bool
) -> None:
    monkeypatch.setenv("FIXPOINT_S3_REQUESTER_PAYS", setting)
    touch_everything("dear")
    assert len(wire) == 9
    assert {headers.get("x-amz-request-payer") for headers in wire} == {"requester" if pays else None}


def test_a_change_of_the_environment_counts_for_later_reads(
    wire: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_uri("s3://b/a.jpg", QUICK)
    monkeypatch.setenv("FIXPOINT_S3_ANONYMOUS", "b")
    read_uri("s3://b/a.jpg", QUICK)
    assert ["authorization" in headers for headers in wire] == [True, False]


def test_dots_in_keys_are_sent_as_they_stand(wire: list[dict[str, str]]) -> None:
    for key in ("p/./e.jpg", "p/../e.jpg", "../x.jpg"):
        read_uri(f"s3://b/{key}", QUICK)
    assert [headers["line"] for headers in wire] == ["GET /b/p/./e.jpg", "GET /b/p/../e.jpg", "GET /b/../x.jpg"]


def test_profile_and_its_endpoint_come_from_the_usual_files(
    wire: list[dict[str, str]], bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (bare / "credentials").write_text("[lab]\naws_access_key_id = AKIDOFLAB\naws_secret_access_key = x\n")
    for config in (
        f"[profile lab]\nregion = eu-west-3\nendpoint_url = {endpoint}\n",
        f"[profile lab]\nregion = eu-west-3\nservices = s\n[services s]\ns3 =\n  endpoint_url = {endpoint}\n",
    ):
        wire.clear()
        (bare / "config").write_text(config)
        monkeypatch.setenv("AWS_PROFILE", "lab")
        assert open_store("s3://b", QUICK).get("a.jpg") == JPEG
        assert "AKIDOFLAB" in wire[0]["authorization"]
        assert "/eu-west-3/s3/" in wire[0]["authorization"]


@pytest.mark.long
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_endpoint_of_the_environment_goes_before_the_profile(
    wire: list[dict[str, str]], bare: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    (bare / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:9\n")
    monkeypatch.setenv(name, endpoint)
    assert open_store("s3://b", QUICK).get("a.jpg") == JPEG
    assert wire


def test_a_profile_that_is_not_there_is_a_sentence(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(errors.AccessDenied, match="nobody"):
        open_store("s3://b", QUICK).get("a.jpg")


def test_without_credentials_the_error_says_how_to_read_a_public_bucket(bare: Path) -> None:
    with pytest.raises(errors.AccessDenied, match="FIXPOINT_S3_ANONYMOUS"):
        open_store("s3://b", QUICK).get("a.jpg")


def test_a_public_bucket_of_a_real_server_is_read_without_credentials_and_no_other(
    seaweedfs: S3Server, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = seaweedfs.client()
    for bucket in ("public", "private"):
        client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key="photos/a.jpg", Body=JPEG)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", seaweedfs.endpoint)
    monkeypatch.setenv("FIXPOINT_S3_ANONYMOUS", "public,private")
    (entry,) = list_photos("s3://public/photos")
    assert read_planned(planned(entry)) == (JPEG, entry["etag"])
    with pytest.raises(errors.AccessDenied):
        list(list_photos("s3://private/photos"))
    with pytest.raises(errors.AccessDenied):
        open_store("s3://public", QUICK).put("results/a.jpg", JPEG)


@pytest.fixture
def odd(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of keys that differ in slashes only."""
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    client, bucket = moto.client(), "odd-slashes"
    client.create_bucket(Bucket=bucket)
    for key in ODD_KEYS:
        client.put_object(Bucket=bucket, Key=key, Body=JPEG + key.encode())
    return f"s3://{bucket}"


def planned(entry: dict[str, Any]) -> PlannedPhoto:
    return PlannedPhoto(0, 0, **entry)


@pytest.mark.parametrize("prefix", ["", "/", "/p", "/p/", "/p//", "//"])
def test_each_key_is_listed_and_read_as_itself(odd: str, prefix: str) -> None:
    found = list(list_photos(odd + prefix))
    inside = prefix.removeprefix("/")
    inside = inside if not inside or inside.endswith("/") else inside + "/"
    assert sorted(inside + entry["key"] for entry in found) == sorted(k for k in ODD_KEYS if k.startswith(inside))
    for entry in found:
        data, etag = read_planned(planned(entry))
        assert data == JPEG + (inside + entry["key"]).encode()
        assert etag == entry["etag"]
        assert is_served(planned(entry))


@pytest.mark.parametrize("key", ODD_KEYS)
def test_one_photo_with_an_odd_key_is_a_source(odd: str, key: str) -> None:
    (entry,) = list_photos(f"{odd}/{key}")
    assert read_uri(entry["uri"]) == JPEG + key.encode()
    found = stat_uri(parse(entry["uri"]))
    assert found is not None
    assert found.etag == entry["etag"]


def test_manifests_name_odd_keys(odd: str, moto: S3Server) -> None:
    lines = "\n".join(json.dumps({"uri": f"{odd}/{key}"}) for key in ODD_KEYS)
    moto.client().put_object(Bucket="odd-slashes", Key="list.jsonl", Body=lines.encode())
    entries = list(list_photos(f"{odd}/list.jsonl"))
    assert [read_uri(entry["uri"]) for entry in entries] == [JPEG + key.encode() for key in ODD_KEYS]


def test_outputs_of_odd_keys_are_apart_and_a_prefix_with_slashes_holds_a_ledger(odd: str) -> None:
    ledger = Ledger(open_store(f"{odd}//out//run"))
    ledger.create_run({"a": 1})
    assert ledger.plan_new(list_photos(odd), 50) == [1]
    stored = [ledger.pictures.put(1, key, b"1", ".jpg").path for key in ODD_KEYS]
    assert len(set(stored)) == len(ODD_KEYS)
    assert all("//" not in path and not path.startswith("/") for path in stored)
    assert [entry.key for entry in ledger.store.list("plans/")] == ["plans/000001.parquet"]


@pytest.mark.parametrize(("source", "output"), [("", "//out"), ("//", "//out"), ("/p/", "/p/out"), ("/p", "/p//out")])
def test_an_output_inside_the_source_is_left_out(odd: str, source: str, output: str) -> None:
    before = {entry["uri"] for entry in list_photos(odd + source, output=odd + output)}
    open_store(odd + output).put("images/result.jpg", JPEG)
    assert {entry["uri"] for entry in list_photos(odd + source, output=odd + output)} == before
