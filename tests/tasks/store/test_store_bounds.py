"""Every read is bounded: regular files only, a number of bytes, one deadline an object."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from tasks.store import errors
from tasks.store.objects import open_store, read_under, read_uri
from tasks.store.retry import RetryPolicy

QUICK = RetryPolicy(attempts=2, first_delay=0.001, max_delay=0.01, budget=5, request_timeout=2, object_timeout=0.5)


def test_devices_and_pipes_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    start = time.monotonic()
    for place in (tmp_path / "pipe.jpg", Path("/dev/zero")):
        with pytest.raises(errors.InvalidLocation, match="device, pipe or socket"):
            read_uri(str(place))
    with pytest.raises(errors.InvalidLocation, match="symbolic link"):
        read_uri(str(tmp_path / "zero.jpg"))
    assert time.monotonic() - start < 2


def test_no_more_bytes_are_read_than_agreed(tmp_path: Path) -> None:
    (tmp_path / "large.jpg").write_bytes(b"")
    os.truncate(tmp_path / "large.jpg", 2**40)
    with pytest.raises(errors.TooLarge, match="1,000 bytes"):
        read_uri(str(tmp_path / "large.jpg"), max_bytes=1000)
    (tmp_path / "fits.jpg").write_bytes(b"x" * 1000)
    assert len(read_uri(str(tmp_path / "fits.jpg"), max_bytes=1000)) == 1000
    store = open_store("memory://bounds")
    store.put("k", b"x" * 1001)
    with pytest.raises(errors.TooLarge):
        store.get("k", 1000)


def test_a_key_cannot_leave_the_folder_of_masks(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    with pytest.raises(errors.InvalidLocation, match="leads out"):
        read_under(str(tmp_path / "masks"), "../secret.png")


def _drip(listener: socket.socket, ended: threading.Event) -> None:
    """An S3 server that says 1000 bytes come and sends one every 50 ms."""
    while not ended.is_set():
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not ended.wait(0.05):
            try:
                connection.sendall(b"x")
            except OSError:
                break
        connection.close()


def test_a_store_that_drips_ends_at_the_deadline_of_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_drip, args=(listener, ended), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")
        start = time.monotonic()
        with pytest.raises(errors.TooSlow, match=r"not done after 0\.5 s"):
            read_uri("s3://bucket/photo.jpg", QUICK)
        assert time.monotonic() - start < 10
        ended.set()
