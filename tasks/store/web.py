"""Reading a photo from the web, where a run allows it: no credentials, no metadata services, a size limit."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Any

from tasks.store.errors import AccessDenied, InvalidLocation, NotFound
from tasks.store.retry import Vanished
from tasks.store.uris import parse, public_uri, refuse_metadata_address

MAX_BYTES = 512 * 2**20


class _Plain(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        refuse_metadata_address(self.sock.getpeername()[0])  # the address really met, whatever the name resolved to


class _Secure(http.client.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        refuse_metadata_address(self.sock.getpeername()[0])


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Plain, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Secure, req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        parse(newurl, allow_http=True)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(uri: str, timeout: float) -> bytes:
    """The body behind a web address, in one attempt.

    Raises:
        InvalidLocation: for metadata addresses, also behind a redirect, and bodies over ``MAX_BYTES``.
        NotFound, AccessDenied: as the server says; other failures raise what urllib raises.
    """
    opener = urllib.request.build_opener(_HTTPHandler, _HTTPSHandler, _Redirects)
    try:
        with opener.open(uri, timeout=timeout) as reply:
            body: bytes = reply.read(MAX_BYTES + 1)
            length = reply.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        raise _sorted(error, uri) from error
    if len(body) > MAX_BYTES:
        raise InvalidLocation(f"{public_uri(uri)} holds more than {MAX_BYTES} bytes: no photo is that large")
    if length is not None and int(length) != len(body):
        raise Vanished(f"{len(body)} of {length} bytes arrived")
    return body


def _sorted(error: urllib.error.HTTPError, uri: str) -> Exception:
    if error.code in {404, 410}:
        return NotFound(f"Reading {public_uri(uri)}: the server says {error.code}; check the address")
    if error.code in {408, 425, 429} or error.code >= 500:
        return Vanished(f"the server says {error.code}")
    return AccessDenied(f"Reading {public_uri(uri)}: the server says {error.code}; only public addresses can be read")
