"""An HTTP proxy before an S3 server that misbehaves on purpose: the network and the store at their worst."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = (
    "500", "503", "409", "403", "reset-before", "reset-after", "lost-reply", "500-after",
    "timeout", "timeout-after", "truncated", "truncated-chunked", "slow",
)  # fmt: skip
"""before: the store never saw the request. after: it was applied, the client does not learn it."""

CODES = {"500": "InternalError", "503": "SlowDown", "409": "ConditionalRequestConflict", "403": "AccessDenied"}

Decide = Callable[[int, str, str], str | None]
"""The fault for the n-th request (from 0), given its method and path; None lets it pass."""


def nothing(index: int, method: str, path: str) -> str | None:
    return None


def at_random(rate: float, seed: int, kinds: tuple[str, ...]) -> Decide:
    """Each request fails with probability ``rate``, in a way drawn from ``kinds``."""
    draw, lock = random.Random(seed), threading.Lock()

    def decide(index: int, method: str, path: str) -> str | None:
        with lock:
            return draw.choice(kinds) if draw.random() < rate else None

    return decide


def at_request(number: int, kind: str) -> Decide:
    """Only the request with this number fails."""
    return lambda index, method, path: kind if index == number else None


def is_listing(path: str) -> bool:
    """Whether this is a request for a page of keys."""
    return "list-type=2" in path


def stale(index: int, method: str, path: str) -> str | None:
    """Every listing is answered as it was first, whatever was written since; all else is as it is."""
    return "stale" if is_listing(path) else None


class FaultProxy(ThreadingHTTPServer):
    """Forwards to ``endpoint``, except where ``decide`` says otherwise; counts what it did."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, endpoint: str, silence: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(endpoint).netloc
        self.silence = silence
        self.lock = threading.Lock()
        self.listings: dict[str, tuple[int, list[tuple[str, str]], bytes]] = {}
        """The first answer to each listing: what the fault "stale" answers for ever."""
        self.set(nothing)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def set(self, decide: Decide) -> None:
        """Start counting anew with other faults."""
        with self.lock:
            self.decide, self.requests, self.faults = decide, 0, Counter[str]()

    def next_fault(self, method: str, path: str) -> str | None:
        with self.lock:
            kind = self.decide(self.requests, method, path)
            self.requests += 1
            self.faults[kind or "none"] += 1
            return kind

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections are the point."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each reply waits 40 ms between its head and its body
    server: FaultProxy

    def serve(self) -> None:
        body = self._read_body()
        fault = self.server.next_fault(self.command, self.path)
        if fault in CODES:
            return self._refuse(int(fault), CODES[fault])
        if fault == "reset-before":
            return self._reset()
        if fault == "timeout":
            return self._fall_silent()
        status, headers, reply = self._forward(body)
        if is_listing(self.path):
            first = self.server.listings.setdefault(self.path, (status, headers, reply))
            status, headers, reply = first if fault == "stale" else (status, headers, reply)
        if fault == "500-after":
            return self._refuse(500, "InternalError")
        if fault == "reset-after":
            return self._reset()
        if fault == "lost-reply":
            return self._hang_up()
        if fault == "timeout-after":
            return self._fall_silent()
        self._answer(status, headers, reply, fault)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = serve

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"connection", "expect", "transfer-encoding", "content-length"}:
                    upstream.putheader(name, value)
            upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body)
            reply = upstream.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: str | None) -> None:
        self.send_response_only(status)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(body)))
        for name, value in headers:
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                self.send_header(name, value)
        cut = len(body) // 2 if fault in {"truncated", "truncated-chunked"} else len(body)
        if fault == "truncated-chunked" and body:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (cut, body[:cut]) if cut else b"0\r\n\r\n")
            return
        self.send_header("Content-Length", length)
        self.end_headers()
        self._send(body[:cut], slowly=fault == "slow")
        if cut < len(body):
            self._hang_up()

    def _send(self, body: bytes, *, slowly: bool) -> None:
        step = max(1, len(body) // 5) if slowly else max(1, len(body))
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            if slowly:
                self.wfile.flush()
                threading.Event().wait(0.05)

    def _refuse(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.wfile.flush()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _fall_silent(self) -> None:
        threading.Event().wait(self.server.silence)
        self._hang_up()


@contextlib.contextmanager
def run_proxy(endpoint: str, silence: float) -> Iterator[FaultProxy]:
    """A proxy before ``endpoint``; a "timeout" lasts ``silence`` seconds."""
    proxy = FaultProxy(endpoint, silence)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
