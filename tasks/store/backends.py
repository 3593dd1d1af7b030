"""One attempt at each storage operation, for local folders, memory, S3 and other fsspec stores.

A backend never retries and raises what its library raises; :mod:`tasks.store.retry` sorts that. ``create`` must
be exclusive: of any number of concurrent creates of one key exactly one succeeds, the others raise.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import threading
import traceback
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Protocol, TypeVar

import fsspec
from aiohttp import ClientTimeout
from botocore.exceptions import ClientError, CredentialRetrievalError
from fsspec.asyn import sync

from tasks.store.bounded import MAX_BYTES, PIECE, open_regular, read_pieces, too_large
from tasks.store.errors import AccessDenied, InvalidLocation, NotExclusive, TooSlow
from tasks.store.retry import CUSTOM_PROCESS, RetryPolicy, Vanished
from tasks.store.uris import Address, Shown, show

# At debug level it writes the headers of every request: key, signature and session token.
logging.getLogger("botocore").setLevel(logging.INFO)
for _name in ("botocore.credentials", "aiobotocore.credentials"):  # with tracebacks, of what is raised as well
    logging.getLogger(_name).setLevel(logging.CRITICAL)

T = TypeVar("T")

TEMPORARY = ".tmp-"
"""Names of local files being written begin so; a kill can leave them behind, ``gc`` removes them."""


@dataclass(frozen=True)
class Entry:
    """One object of a listing. ``etag`` is the store's entity tag, locally modification time and size."""

    key: str
    size: int
    etag: str
    disk_name: str | None = None
    """The key as it stands on a disk, where that is no UTF-8 and so cannot be kept."""

    @property
    def name(self) -> str:
        """What the store reads the object by."""
        return self.disk_name or self.key


class Attempt(Protocol):
    """How one request is made: at once, or again until it succeeds."""

    def __call__(self, request: Callable[[], T]) -> T:
        """What ``request`` returns."""


class Backend(Protocol):
    """What a store must be able to do, one attempt each. Keys are relative to the location's path."""

    def read(self, key: str, tail: int | None = None, max_bytes: int = MAX_BYTES) -> bytes:
        """All bytes, or the last ``tail``. Raises TooLarge beyond ``max_bytes``, TooSlow past the policy's deadline."""

    def read_range(self, key: str, start: int, size: int) -> bytes:
        """``size`` bytes from ``start`` on, fewer at the end of an object; it must be longer than ``start``."""

    def write(self, key: str, data: bytes) -> None:
        """Create or replace, whole or not at all."""

    def create(self, key: str, data: bytes) -> None:
        """Create, whole or not at all; raise if the key exists."""

    def stat(self, key: str) -> Entry:
        """Size and tag; raise FileNotFoundError (or a 404) if absent."""

    def remove(self, key: str) -> None:
        """Delete; an absent key may raise FileNotFoundError."""

    def list(self, prefix: str, attempt: Attempt) -> Iterator[Entry]:
        """Objects whose keys begin with ``prefix``; each request, or folder read, goes through ``attempt``."""


class LocalBackend:
    """A folder. Writes go to a temporary file beside the target, are flushed to disk and then linked into place."""

    def __init__(self, root: Path, seconds: float = 600.0) -> None:
        self.root, self._seconds = root.resolve(), seconds

    def _inside(self, key: str) -> Path:
        path = self.root / key
        if ".." in Path(key).parts or not path.parent.resolve().is_relative_to(self.root):
            raise InvalidLocation(f"{key!r} leads out of {self.root}: remove the symbolic link or the '..'")
        return path

    def read(self, key: str, tail: int | None = None, max_bytes: int = MAX_BYTES) -> bytes:
        """All bytes of a regular file, or the last ``tail``."""
        path = self._inside(key)
        if not path.resolve().is_relative_to(self.root):
            raise InvalidLocation(f"{key!r} is a symbolic link out of {self.root}: copy the file instead")
        end = monotonic() + self._seconds
        with os.fdopen(open_regular(path), "rb", buffering=0) as file:
            if tail is not None:
                file.seek(max(0, os.fstat(file.fileno()).st_size - tail))
            return read_pieces(file.read, max_bytes, show(key), lambda: end - monotonic())

    def read_range(self, key: str, start: int, size: int) -> bytes:
        """A piece of a regular file."""
        path = self._inside(key)
        if not path.resolve().is_relative_to(self.root):
            raise InvalidLocation(f"{key!r} is a symbolic link out of {self.root}: copy the file instead")
        with os.fdopen(open_regular(path), "rb") as file:
            file.seek(start)
            return file.read(size)

    def write(self, key: str, data: bytes) -> None:
        """Replace in one step."""
        temporary, path = self._temporary(key, data)
        try:
            temporary.replace(path)
        except IsADirectoryError as error:
            raise _clash(key) from error
        except FileNotFoundError as error:
            raise Vanished("its temporary file was cleaned away before it was moved into place") from error
        finally:
            temporary.unlink(missing_ok=True)
        _flush_folder(path.parent)

    def create(self, key: str, data: bytes) -> None:
        """Link into place: exclusive, unlike open(…, "x") followed by a write."""
        temporary, path = self._temporary(key, data)
        try:
            os.link(temporary, path)
        except OSError as error:
            if path.is_dir():
                raise _clash(key) from error
            if isinstance(error, FileNotFoundError):
                raise Vanished("its temporary file was cleaned away before it was linked into place") from error
            if error.errno in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}:
                raise NotExclusive(
                    f"The file system of {self.root} has no hard links, so commits could overwrite each other: "
                    "use a folder on another disk, or a bucket"
                ) from error
            raise
        finally:
            temporary.unlink(missing_ok=True)
        _flush_folder(path.parent)

    def _temporary(self, key: str, data: bytes) -> tuple[Path, Path]:
        path = self._inside(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise _clash(key) from error
        temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return temporary, path

    def stat(self, key: str) -> Entry:
        """Size and time."""
        path = self._inside(key)
        if not path.is_file():
            raise FileNotFoundError(key)
        return _local_entry(key, path.stat())

    def remove(self, key: str) -> None:
        """Delete."""
        self._inside(key).unlink()

    def list(self, prefix: str, attempt: Attempt) -> Iterator[Entry]:
        """All files below, lazily."""
        folder = prefix.rpartition("/")[0]
        root = str(self._inside(folder) if folder else self.root)
        entries = self._walk(root, folder + "/" if folder else "", attempt)
        return (entry for entry in entries if entry.key.startswith(prefix))

    def _walk(self, folder: str, prefix: str, attempt: Attempt) -> Iterator[Entry]:
        """Files below in the order S3 lists them; memory: the names of one folder. Linked folders are not followed."""
        for name in attempt(lambda: _names(folder)):
            path, key = f"{folder}/{name}", prefix + name
            if name.endswith("/"):
                yield from self._walk(path, key, attempt)
            elif (found := self._stat_inside(path)) is not None:
                yield _local_entry(key, found)

    def _stat_inside(self, path: str) -> os.stat_result | None:
        """Of a file, or of what a link leads to if that is a file of ours; None for anything else."""
        try:
            found = os.lstat(path)  # pathlib would keep every name
        except FileNotFoundError:  # gone since its name was read: another writer's temporary file, say
            return None
        if stat.S_ISLNK(found.st_mode):
            try:
                found = Path(path).stat()
            except OSError:  # it leads nowhere, or in a circle
                return None
            if not Path(path).resolve().is_relative_to(self.root):
                return None
        return found if stat.S_ISREG(found.st_mode) else None


def _names(folder: str) -> list[str]:
    """What a folder holds, sorted; folders' names end with a slash. None of a folder that is not there."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _local_entry(key: str, found: os.stat_result) -> Entry:
    tag, kept = (
        f"{found.st_mtime_ns:x}-{found.st_size:x}",
        key.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
    )
    return Entry(kept, found.st_size, tag, None if kept == key else key)


def _clash(key: str) -> InvalidLocation:
    return InvalidLocation(f"{key!r}: one name cannot be file and folder on a disk; rename one, or write to a bucket")


def _flush_folder(folder: Path) -> None:
    """Make a new name survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


ANONYMOUS, REQUESTER_PAYS = "FIXPOINT_S3_ANONYMOUS", "FIXPOINT_S3_REQUESTER_PAYS"
"""Settings of the environment: names of buckets with commas between, or * for all."""


def _is_named(bucket: str, setting: str) -> bool:
    """Whether a setting of the environment names the bucket."""
    return not {bucket, "*"}.isdisjoint(name.strip() for name in os.environ.get(setting, "").split(","))


class S3Backend:
    """A prefix of a bucket, through the client of s3fs with all of its and botocore's own retries left out.

    Credentials, profile, region and endpoint are found as botocore finds them, and ``AWS_REGION`` counts too.
    """

    def __init__(self, location: Address, policy: RetryPolicy) -> None:
        env = os.environ
        self._always = {"RequestPayer": "requester"} if _is_named(location.bucket, REQUESTER_PAYS) else {}
        self.bucket, self.prefix = location.bucket, (location / "").path
        self._seconds = policy.object_timeout
        self._fs = fsspec.filesystem(
            "s3",
            skip_instance_cache=True,
            use_listings_cache=False,
            **({"anon": True} if _is_named(location.bucket, ANONYMOUS) else {}),
            client_kwargs={"region_name": env["AWS_REGION"]} if env.get("AWS_REGION") else {},
            config_kwargs={
                "retries": {"total_max_attempts": 1},
                "connect_timeout": policy.request_timeout,
                "read_timeout": policy.request_timeout,
                "max_pool_connections": 64,
            },
        )

    def _call(self, method: str, max_bytes: int = MAX_BYTES, **arguments: Any) -> dict[str, Any]:
        """One request, its reply's body read; whatever the server does, it ends at the policy's ``object_timeout``."""

        async def once() -> dict[str, Any]:
            client = await self._client()
            reply: dict[str, Any] = await getattr(client, method)(Bucket=self.bucket, **self._always, **arguments)
            if "Body" in reply:
                async with reply["Body"] as body:
                    reply["Body"] = await _read_body(body, max_bytes, show(str(arguments.get("Key"))))
            return reply

        if method != "get_object":  # not done in time, it is tried again
            reply: dict[str, Any] = sync(self._fs.loop, once, timeout=self._seconds)
        else:
            reply = sync(self._fs.loop, _within, self._seconds, show(str(arguments.get("Key"))), once)
        return reply

    async def _client(self) -> Any:
        """The connected client. What a ``credential_process`` prints is read there, and nonsense fails in many ways."""
        try:
            return await self._fs.set_session()
        except (AttributeError, TypeError, ValueError) as error:
            places = {Path(frame.filename).name for frame in traceback.extract_tb(error.__traceback__)}
            if "credentials.py" not in places:
                raise
            raise CredentialRetrievalError(provider=CUSTOM_PROCESS, error_msg="its output cannot be read") from None

    def read(self, key: str, tail: int | None = None, max_bytes: int = MAX_BYTES) -> bytes:
        """GET, with the length checked."""
        extra: dict[str, Any] = {} if tail is None else {"Range": f"bytes=-{tail}"}
        try:
            reply = self._call("get_object", max_bytes=max_bytes, Key=self.prefix + key, **extra)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") == "InvalidRange":  # an empty object has no last bytes
                return b""
            raise
        body: bytes = reply["Body"]
        expected = reply.get("ContentLength")
        if expected is None:  # a proxy re-chunked the reply, so a cut would go unseen
            expected = self.stat(key).size if tail is None else min(tail, self.stat(key).size)
        if len(body) != expected:
            raise Vanished(f"{len(body)} of {expected} bytes arrived")
        return body

    def read_range(self, key: str, start: int, size: int) -> bytes:
        """GET of a range."""
        span = f"bytes={start}-{start + size - 1}"
        body: bytes = self._call("get_object", Key=self.prefix + key, Range=span)["Body"]
        return body

    def write(self, key: str, data: bytes) -> None:
        """A single PUT."""
        self._call("put_object", Key=self.prefix + key, Body=data)

    def create(self, key: str, data: bytes) -> None:
        """A single PUT with ``If-None-Match: *``."""
        self._call("put_object", Key=self.prefix + key, Body=data, IfNoneMatch="*")

    def stat(self, key: str) -> Entry:
        """HEAD."""
        reply = self._call("head_object", Key=self.prefix + key)
        return Entry(key, int(reply["ContentLength"]), reply["ETag"].strip('"'))

    def remove(self, key: str) -> None:
        """DELETE; S3 does not tell whether the key was there."""
        self._call("delete_object", Key=self.prefix + key)

    def list(self, prefix: str, attempt: Attempt) -> Iterator[Entry]:
        """Up to 1000 keys a request."""
        extra: dict[str, Any] = {}
        while True:
            request = partial(self._call, "list_objects_v2", Prefix=self.prefix + prefix, **extra)
            reply = attempt(request)
            for item in reply.get("Contents", []):
                if not item["Key"].endswith("/"):  # folder marks of graphical tools
                    yield Entry(item["Key"][len(self.prefix) :], int(item["Size"]), item["ETag"].strip('"'))
            if not reply.get("IsTruncated"):
                return
            extra = {"ContinuationToken": reply["NextContinuationToken"]}


async def _within(seconds: float, shown: Shown, request: Callable[[], Awaitable[T]]) -> T:
    """What a request gives. Raises TooSlow at the deadline; the request's own timeouts, which may pass, as they are."""
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            return await request()
    except TimeoutError:
        if not deadline.expired():
            raise
        raise TooSlow(f"Reading {shown}: not done after {seconds:g} s although the store answers") from None


async def _read_body(body: Any, max_bytes: int, shown: Shown) -> bytes:
    """A streamed body, in pieces and no further than ``max_bytes``."""
    pieces, size = list[bytes](), 0
    while piece := await body.read(PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > max_bytes:
            raise too_large(shown, max_bytes)
    return b"".join(pieces)


_MEMORY_LOCK = threading.Lock()


def _client_options(scheme: str, policy: RetryPolicy) -> dict[str, Any]:
    """Options of an fsspec file system. By itself gcsfs waits for a reply without end."""
    if scheme == "memory":
        return {}
    seconds = policy.request_timeout
    limits: dict[str, dict[str, Any]] = {
        "gs": {"requests_timeout": ClientTimeout(policy.object_timeout, sock_connect=seconds, sock_read=seconds)},
        "az": {"connection_timeout": seconds, "read_timeout": seconds},
    }
    return {"use_listings_cache": False, "skip_instance_cache": True, **limits[scheme]}


class FsspecBackend:
    """Any other fsspec file system whose ``pipe_file(mode="create")`` is exclusive: gs, az; memory under a lock."""

    def __init__(self, location: Address, policy: RetryPolicy) -> None:
        self._seconds = policy.object_timeout
        self._fs = fsspec.filesystem(location.scheme, **_client_options(location.scheme, policy))
        self._base = "/".join(part for part in (location.bucket, location.path.rstrip("/")) if part)
        if location.scheme == "memory":
            self._base = "/" + self._base

    def _path(self, key: str) -> str:
        return f"{self._base}/{key}" if self._base.strip("/") else self._base + key

    def read(self, key: str, tail: int | None = None, max_bytes: int = MAX_BYTES) -> bytes:
        """All bytes, or the last ``tail``, with the length checked. Azure and empty objects know no "last n bytes"."""
        size = self.stat(key).size
        start = 0 if tail is None else max(0, size - tail)
        if size - start > max_bytes:
            raise too_large(show(key), max_bytes)
        data = self._cat(self._path(key), {"start": start} if start else {})
        if len(data) < size - start:
            raise Vanished(f"{len(data)} of {size - start} bytes arrived")
        return data

    def _cat(self, path: str, span: dict[str, int]) -> bytes:
        """The bytes, within the deadline where the file system can be interrupted; memory needs none."""
        if not self._fs.async_impl:
            return bytes(self._fs.cat_file(path, **span))
        return bytes(sync(self._fs.loop, _within, self._seconds, show(path), lambda: self._fs._cat_file(path, **span)))

    def read_range(self, key: str, start: int, size: int) -> bytes:
        """A piece."""
        return self._cat(self._path(key), {"start": start, "end": start + size})

    def write(self, key: str, data: bytes) -> None:
        """Replace in one request."""
        with _MEMORY_LOCK:
            self._fs.pipe_file(self._path(key), data)

    def create(self, key: str, data: bytes) -> None:
        """``pipe_file(mode="create")``."""
        if self._fs.protocol != "memory":
            self._fs.pipe_file(self._path(key), data, mode="create")
            return
        with _MEMORY_LOCK:  # fsspec's memory file system checks, then writes
            self._fs.pipe_file(self._path(key), data, mode="create")

    def stat(self, key: str) -> Entry:
        """Size and tag."""
        info = self._fs.info(self._path(key))
        if info["type"] != "file":
            raise FileNotFoundError(key)
        return self._entry(info)

    def remove(self, key: str) -> None:
        """Delete."""
        self._fs.rm_file(self._path(key))

    def list(self, prefix: str, attempt: Attempt) -> Iterator[Entry]:
        """All files below, lazily."""
        folder = self._path(prefix.rpartition("/")[0]).rstrip("/")
        return (entry for entry in self._walk(folder, attempt) if entry.key.startswith(prefix))

    def _walk(self, folder: str, attempt: Attempt) -> Iterator[Entry]:
        """Files below, folder by folder; memory: one folder's names."""
        found = attempt(lambda: self._ls(folder))
        for info in sorted(found, key=lambda i: str(i["name"]) + "/" * (i["type"] == "directory")):
            if info["type"] == "directory":
                yield from self._walk(info["name"], attempt)
            else:
                yield self._entry(info)

    def _ls(self, folder: str) -> Sequence[dict[str, Any]]:
        """What a folder holds; nothing of one that is not there."""
        try:
            found: Sequence[dict[str, Any]] = self._fs.ls(folder, detail=True)
        except FileNotFoundError:
            return ()
        return found

    def _entry(self, info: dict[str, Any]) -> Entry:
        tag = info.get("etag") or info.get("ETag") or info.get("created") or ""
        tag = tag.timestamp() if isinstance(tag, datetime) else tag  # the memory file system has it both ways
        return Entry(info["name"][len(self._path("")) :], int(info["size"]), str(tag).strip('"'))


def open_backend(location: Address, policy: RetryPolicy) -> Backend:
    """The backend of a location that can be written to.

    Raises:
        InvalidLocation: if the package for its scheme is not installed.
        AccessDenied: if there are no credentials for Azure.
    """
    try:
        if location.scheme == "file":
            return LocalBackend(Path(location.path), policy.object_timeout)
        if location.scheme == "s3":
            return S3Backend(location, policy)
        return FsspecBackend(location, policy)
    except ImportError as error:
        extra = {"gs": "gcs", "az": "azure"}.get(location.scheme, location.scheme)
        raise InvalidLocation(
            f"{location.scheme}:// needs another package: pip install 'fixpoint-diffusion[{extra}]' ({error})"
        ) from error
    except ValueError as error:  # adlfs looks for its credentials at once; what it says of them is not repeated
        raise AccessDenied(
            f"{location}: the credentials in the environment are missing or malformed; set "
            "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
        ) from error
