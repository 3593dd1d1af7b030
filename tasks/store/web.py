"""Reading a photo from the web, where a run allows it: public hosts, no credentials, bounded in bytes and seconds."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from tasks.store.access import Access
from tasks.store.bounded import read_pieces
from tasks.store.errors import AccessDenied, HostUnreachable, InvalidLocation, NotFound, StoreUnavailable, TooSlow
from tasks.store.retry import RetryPolicy, Vanished, with_retries
from tasks.store.uris import Address, Shown, parse

PATIENCE = RetryPolicy(attempts=4, first_delay=0.5, max_delay=10.0, budget=60.0, request_timeout=30.0)
"""Less than for a store: a photo is one of many, and a host that is down is not to hold up the others."""
GIVEN_UP_SECONDS = 300.0
"""For so long after a host did not answer its photos get one quick attempt each."""

_given_up: dict[str, float] = {}


def read_web(address: Address, access: Access, policy: RetryPolicy, max_bytes: int) -> bytes:
    """The body behind a web address.

    Raises:
        InvalidLocation: for an address, or one it redirects to, that may not be read.
        TooLarge, TooSlow, NotFound, AccessDenied, HostUnreachable.
    """
    access.require(address)
    if monotonic() - _given_up.get(address.bucket, -GIVEN_UP_SECONDS) < GIVEN_UP_SECONDS:
        policy = replace(policy, attempts=1, request_timeout=min(5.0, policy.request_timeout))
    try:
        data = with_retries(policy, f"Reading {address.shown}", lambda: fetch(address, access, policy, max_bytes))
    except StoreUnavailable as error:
        _given_up[address.bucket] = monotonic()
        raise HostUnreachable(str(error)) from None
    _given_up.pop(address.bucket, None)
    return data


def fetch(address: Address, access: Access, policy: RetryPolicy, max_bytes: int) -> bytes:
    """The body, in one attempt, which ends at the policy's ``object_timeout`` whatever the server does."""
    with _Deadline(policy.object_timeout, address.shown) as deadline:
        try:
            with _opener(address, access, deadline).open(address.uri, timeout=policy.request_timeout) as reply:
                length = reply.headers.get("Content-Length", "")
                body = read_pieces(reply.read1, max_bytes, address.shown, deadline.left)
        except urllib.error.HTTPError as error:
            raise _sorted(error.code, address.shown) from None
        except http.client.InvalidURL:
            raise InvalidLocation(f"{address.shown} is not a valid web address") from None
        except (OSError, http.client.HTTPException):
            deadline.check()
            raise
        deadline.check()
    if length.isdecimal() and int(length) != len(body):
        raise Vanished(f"{len(body)} of {length} bytes arrived")
    return body


class _Deadline:
    """Shuts the sockets of a request at its deadline: a server that sends a byte a minute resets every other limit."""

    def __init__(self, seconds: float, shown: Shown) -> None:
        self._shown, self._seconds, self._end = shown, seconds, monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._shut)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        for connection in self._sockets:
            connection.close()

    def left(self) -> float:
        """Seconds."""
        return self._end - monotonic()

    def check(self) -> None:
        """Raise TooSlow once it has passed."""
        if self.left() <= 0:
            raise TooSlow(f"Reading {self._shown}: not done after {self._seconds:g} s although the server answers")

    def watch(self, connection: socket.socket) -> None:
        """One more socket of this request; a twin of it is kept, for TLS takes the socket itself away."""
        self._sockets.append(connection.dup())

    def _shut(self) -> None:
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _opener(address: Address, access: Access, deadline: _Deadline) -> urllib.request.OpenerDirector:
    """urllib's opener, which connects only to numeric addresses that were looked at, also after a redirect."""
    met = [address]

    def connect(place: tuple[str, int], timeout: Any = None, source: Any = None) -> socket.socket:
        try:
            places = access.numeric(met[-1])
        except OSError:
            if not _is_proxy(place):
                raise
            places = []  # behind a proxy names may mean nothing here
        connection = _first([place] if _is_proxy(place) else places, timeout, source)
        deadline.watch(connection)
        return connection

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            met.append(parse(newurl))
            access.require(met[-1])
            return super().redirect_request(req, fp, code, msg, headers, met[-1].uri)

    class Plain(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(_made(http.client.HTTPConnection, connect), req)

    class Secure(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(_made(http.client.HTTPSConnection, connect), req)

    return urllib.request.build_opener(Plain, Secure, Redirects)


def _made(kind: type[http.client.HTTPConnection], connect: Callable[..., socket.socket]) -> Any:
    """A maker of connections of a kind that open their socket by ``connect``."""

    def make(host: str, **options: Any) -> http.client.HTTPConnection:
        connection: Any = kind(host, **options)
        connection._create_connection = connect
        return connection  # type: ignore[no-any-return]

    return make


def _first(places: list[tuple[str, int]], timeout: Any, source: Any) -> socket.socket:
    """A connection to the first of the addresses that takes one."""
    failure: OSError = ConnectionError("the host has no address")
    for place in places:
        try:
            return socket.create_connection(place, timeout, source)
        except OSError as error:
            failure = error
    raise failure


def _is_proxy(place: tuple[str, int]) -> bool:
    """Whether it is the proxy that the environment names: it is the operator's, and may be private."""
    proxies = [urlsplit(url if "://" in url else f"//{url}") for url in urllib.request.getproxies().values()]
    return any(proxy.hostname == place[0] and (proxy.port or 80) == place[1] for proxy in proxies)


def _sorted(code: int, shown: Shown) -> Exception:
    if code in {404, 410}:
        return NotFound(f"Reading {shown}: the server says {code}; check the address")
    if code in {408, 425, 429} or code >= 500:
        return Vanished(f"the server says {code}")
    if 300 <= code < 400:
        return InvalidLocation(f"{shown} redirects in circles or to what is no web address")
    return AccessDenied(f"Reading {shown}: the server says {code}; a presigned address may have expired")
