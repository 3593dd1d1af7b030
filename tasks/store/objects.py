"""A store: named bytes under one URL, with one retry layer and creates that never overwrite."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

from tasks.store.access import SOURCE_ONLY, Access
from tasks.store.backends import Backend, Entry, open_backend
from tasks.store.bounded import MAX_BYTES
from tasks.store.cells import read_cell
from tasks.store.errors import InvalidLocation, NotExclusive, NotFound
from tasks.store.retry import Kind, RetryPolicy, Vanished, kind_of, with_retries
from tasks.store.uris import WEB, Address, Shown, parse

__all__ = ["Entry", "PutOutcome", "Store", "open_store", "read_uri", "stat_uri"]


@dataclass(frozen=True)
class PutOutcome:
    """How a create ended: ``won`` if the bytes that stand are ours, and those bytes."""

    won: bool
    standing: bytes


class Store:
    """Objects under one location. Keys are relative paths with forward slashes; safe to share among threads."""

    def __init__(self, location: Address, backend: Backend, policy: RetryPolicy) -> None:
        self.location = location
        self._backend = backend
        self._policy = policy

    def __repr__(self) -> str:
        return f"Store({self.location.shown})"

    def address(self, key: str) -> Address:
        """Where ``key`` lives, to be read by."""
        return self.location / key

    def shown(self, key: str) -> Shown:
        """Where ``key`` lives, for messages."""
        return self.address(key).shown

    def get(self, key: str, max_bytes: int = MAX_BYTES) -> bytes:
        """All bytes of an object.

        Raises NotFound, AccessDenied, StoreUnavailable, TooLarge or TooSlow.
        """
        what = f"Reading {self.shown(key)}"
        return with_retries(self._policy, what, lambda: self._backend.read(key, max_bytes=max_bytes))

    def get_tail(self, key: str, size: int) -> bytes:
        """The last ``size`` bytes of an object (all of it if it is shorter): enough for a Parquet footer."""
        return with_retries(self._policy, f"Reading {self.shown(key)}", lambda: self._backend.read(key, size))

    def get_head(self, key: str, size: int) -> bytes:
        """The first ``size`` bytes of an object (all of it if it is shorter): enough to tell what kind it is of."""
        return with_retries(self._policy, f"Reading {self.shown(key)}", lambda: self._backend.read_range(key, 0, size))

    def get_range(self, key: str, start: int, size: int) -> bytes:
        """Exactly ``size`` bytes from ``start`` on; an object that does not have them counts as unavailable."""

        def once() -> bytes:
            data = self._backend.read_range(key, start, size)
            if len(data) != size:
                raise Vanished(f"{len(data)} of {size} bytes arrived")
            return data

        return with_retries(self._policy, f"Reading {self.shown(key)}", once) if size else b""

    def put(self, key: str, data: bytes) -> None:
        """Create or replace an object; for tables and reports that may be rebuilt at any time.

        Raises InvalidLocation, StoreFull, AccessDenied or StoreUnavailable.
        """
        _check_key(key)
        with_retries(self._policy, f"Writing {self.shown(key)}", lambda: self._backend.write(key, data))

    def put_new(self, key: str, data: bytes) -> PutOutcome:
        """Create an object if the key is free; the outcome is certain even if a reply was lost.

        Whenever the store says "exists", the object is read back and compared, for our own request may have been
        applied before its reply was lost. So ``data`` should hold something random, such as an attempt id, unless
        equal bytes are as good as ours.

        Raises InvalidLocation, StoreFull, AccessDenied or StoreUnavailable (then the object may or may not exist).
        """
        _check_key(key)

        def create_or_read() -> bytes:
            try:
                self._backend.create(key, data)
            except Exception as error:
                if kind_of(error) is not Kind.EXISTS:
                    raise
                return self._read_standing(key)
            return data

        standing = with_retries(self._policy, f"Creating {self.shown(key)}", create_or_read)
        return PutOutcome(standing == data, standing)

    def _read_standing(self, key: str) -> bytes:
        try:
            return self._backend.read(key)
        except Exception as error:
            if kind_of(error) is Kind.MISSING:
                raise Vanished("the object exists and does not exist") from error
            raise

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return self.stat(key) is not None

    def stat(self, key: str) -> Entry | None:
        """Size and entity tag, or None if the object is not there."""
        try:
            return with_retries(self._policy, f"Looking up {self.shown(key)}", lambda: self._backend.stat(key))
        except NotFound:
            return None

    def delete(self, key: str) -> None:
        """Remove an object; fine if it is gone already."""
        _check_key(key)
        try:
            with_retries(self._policy, f"Deleting {self.shown(key)}", lambda: self._backend.remove(key))
        except NotFound:
            return

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Objects whose keys begin with ``prefix``, lazily, in an order that does not change.

        That is the order of the keys, on SeaweedFS that of the folders' names.

        Memory: one page of S3 (1000 keys), or the names of one local folder.

        Raises:
            NotFound: if the bucket does not exist. A folder that does not exist is empty.
        """
        return self._backend.list(prefix, partial(with_retries, self._policy, f"Listing {self.shown(prefix)}"))

    def probe_exclusive(self) -> None:
        """Make sure that a second create fails; commits rely on it.

        Raises:
            NotExclusive: the store overwrote the first object.
        """
        key = f"probe/{uuid.uuid4().hex}"
        first, second = uuid.uuid4().bytes, uuid.uuid4().bytes
        try:
            self.put_new(key, first)
            overwritten = self.put_new(key, second).won or self.get(key) != first
        finally:
            self.delete(key)
        if overwritten:
            raise NotExclusive(
                f"{self.shown('')} lets a second create overwrite the first, so two runs could destroy each other's "
                "results: use a store that honours 'If-None-Match: *' (AWS S3, MinIO, SeaweedFS) or a local folder"
            )


def _check_key(key: str) -> None:
    parts = key.split("/")
    if not key or "\0" in key or any(part in {"", ".", ".."} for part in parts):
        raise InvalidLocation(f"{key!r} cannot name an output: use a relative path without '..', see safe_key")


def open_store(url: str, policy: RetryPolicy | None = None) -> Store:
    """The store at a local folder, file://, s3://, gs://, az:// or memory:// URL.

    Credentials and endpoint come from the environment only: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE with
    the files it names, AWS_REGION, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, FIXPOINT_S3_ANONYMOUS and
    FIXPOINT_S3_REQUESTER_PAYS (names of buckets), and what gcsfs and adlfs read. Nothing is contacted yet.

    Raises:
        InvalidLocation: if the URL is not allowed.
    """
    policy = policy or RetryPolicy()
    location = parse(url)
    _refuse_web(location)
    return Store(location, open_backend(location, policy), policy)


def read_uri(
    uri: str | Address, policy: RetryPolicy | None = None, *, access: Access = SOURCE_ONLY, max_bytes: int = MAX_BYTES
) -> bytes:
    """The bytes of one photo, wherever it is; for manifests whose photos lie in several places.

    ``access`` bounds what may be read of the web; whether other places may be read was decided when they were listed.

    Raises InvalidLocation, NotFound, AccessDenied, StoreUnavailable, TooLarge, TooSlow or HostUnreachable.
    """
    address = uri if isinstance(uri, Address) else parse(uri)
    if address.scheme in WEB:
        from tasks.store import web

        return web.read_web(address, access, policy or web.PATIENCE, max_bytes)
    store, key = store_of(address, policy)
    if address.cell is not None:
        return read_cell(store, key, address.cell, max_bytes)
    return store.get(key, max_bytes)


def stat_uri(address: Address) -> Entry | None:
    """Size and entity tag of one file or object, or None if it is not there. Raises StoreError."""
    store, key = store_of(address)
    return store.stat(key)


def store_of(address: Address, policy: RetryPolicy | None = None) -> tuple[Store, str]:
    """The shared store that one file or object lies in, and its key there."""
    root, key = _rooted(address)
    return _shared_store(root, policy), key


def _rooted(address: Address) -> tuple[Address, str]:
    """Root and key of an object: its bucket with the whole key, in which slashes may stand anywhere, or its folder."""
    if address.bucket:
        return Address(address.scheme, address.bucket, ""), address.path
    return address.parent, address.path.rpartition("/")[2]


def read_under(folder: str, key: str, policy: RetryPolicy | None = None, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of the object ``key`` in a folder or bucket, which the key, written by others, cannot leave.

    Raises InvalidLocation, NotFound, AccessDenied, StoreUnavailable, TooLarge or TooSlow.
    """
    root = parse(folder)
    _refuse_web(root)
    return _shared_store(root, policy).get(key, max_bytes)


def _shared_store(root: Address, policy: RetryPolicy | None) -> Store:
    policy = policy or RetryPolicy()
    return Store(root, _shared_backend(root, policy, _environment()), policy)


def _refuse_web(location: Address) -> None:
    if location.scheme in WEB:
        raise InvalidLocation(
            f"{location.shown} is a web address, which only photos are read from: use a folder or a bucket"
        )


@lru_cache(maxsize=32)
def _shared_backend(root: Address, policy: RetryPolicy, environment: tuple[str, ...]) -> Backend:
    """One connection pool a bucket, a new one when its settings in the environment change."""
    return open_backend(root, policy)


def _environment() -> tuple[str, ...]:
    ours = ("AWS_", "FIXPOINT_S3_")
    return tuple(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(ours))
