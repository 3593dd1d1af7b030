"""Listings of more keys than fit in memory: S3 by a server that makes up its pages, disk by one large folder."""

from __future__ import annotations

import multiprocessing
import os
import resource
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tasks.photos.sources import list_photos

PAGE = 1000
ENTRY = (
    "<Contents><Key>photos/{:09d}.jpg</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;{:032x}&quot;</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


class MadeUp(BaseHTTPRequestHandler):
    """ListObjectsV2 of a bucket whose name is the number of its keys; the token of a page is its first key's number."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        total = int(url.path.strip("/").removeprefix("keys-"))
        first = int(parse_qs(url.query).get("continuation-token", ["0"])[0])
        end = min(first + PAGE, total)
        more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < total else ""
        body = (
            f'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><KeyCount>{end - first}'
            f"</KeyCount><MaxKeys>{PAGE}</MaxKeys><IsTruncated>{str(end < total).lower()}</IsTruncated>{more}"
            f"{''.join(ENTRY.format(i, i, i) for i in range(first, end))}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def serve(ports: multiprocessing.Queue[int]) -> None:
    """In a process of its own, so that its memory is not the listing's."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), MadeUp)
    ports.put(server.server_port)
    server.serve_forever()


@pytest.fixture(scope="module")
def endless() -> Iterator[str]:
    """The endpoint of a server of made-up buckets."""
    context = multiprocessing.get_context("spawn")
    ports: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(target=serve, args=(ports,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ports.get(timeout=60)}"
    finally:
        process.kill()
        process.join()


@pytest.fixture(autouse=True)
def at_endpoint(endless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ENDPOINT_URL", endless), ("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(f"AWS_{name}", value)


def peak(keys: int) -> int:
    """Most bytes of Python objects while so many keys are listed."""
    tracemalloc.start()
    try:
        assert sum(1 for _ in list_photos(f"s3://keys-{keys}/photos/")) == keys
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.long
def test_six_times_the_pages_need_hardly_more_memory() -> None:
    """Pages that the collector has not come round to yet may wait, so not exactly as much; all of them would be six times."""
    peak(PAGE)  # what the client itself loads
    assert peak(12 * PAGE) < 3.5 * peak(2 * PAGE)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_two_million_keys_are_listed_in_the_memory_of_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    megabytes = [_megabytes(f"s3://keys-{keys}/photos/", keys) for keys in (10_000, 2_000_000)]
    with capsys.disabled():
        print(f"\n2,000,000 keys of a bucket: {megabytes[1] - megabytes[0]:.0f} MB more than 10,000")
    assert megabytes[1] - megabytes[0] < 50


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_million_files_of_one_folder_are_listed_in_the_memory_of_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(1_000_000):
        os.close(os.open(folder / f"{i:09d}.jpg", os.O_CREAT))
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "1.jpg").touch()
    megabytes = [_megabytes(str(tmp_path / name), count) for name, count in (("few", 1), ("photos", 1_000_000))]
    with capsys.disabled():
        print(f"\n1,000,000 files of a folder: {megabytes[1] - megabytes[0]:.0f} MB more than one")
    assert megabytes[1] - megabytes[0] < 150


def _megabytes(source: str, count: int) -> float:
    """Peak memory of a fresh process that lists a source."""
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        return pool.apply(_list, (source, count))


def _list(source: str, count: int) -> float:
    assert sum(1 for _ in list_photos(source)) == count
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
