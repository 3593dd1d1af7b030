"""Which version of a photo was read, and whether the place it was listed in can be read at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tasks.store.access import SOURCE_ONLY, Access
from tasks.store.bounded import MAX_BYTES
from tasks.store.errors import AccessDenied, NotFound, StoreError, StoreUnavailable
from tasks.store.objects import Entry, open_store, read_uri, stat_uri
from tasks.store.planned import PlannedPhoto
from tasks.store.uris import WEB, Address, parse


def read_planned(
    planned: PlannedPhoto, access: Access = SOURCE_ONLY, max_bytes: int = MAX_BYTES
) -> tuple[bytes, str | None]:
    """The bytes of a planned photo and the entity tag of the version they are; the listed tag where none can be told.

    A photo that was replaced since it was planned has another tag: the ledger then knows that version as done.

    Raises:
        StoreUnavailable: also where the source as a whole is not there: an unmounted folder, an expired token. That
            says nothing of the photo, so no row is made of it.
        InvalidLocation, NotFound, AccessDenied: of this photo alone.
    """
    address = parse(planned.uri)
    if address.cell is not None:
        _require_same_table(address, planned)
    local = planned.etag is not None and address.scheme == "file"
    before = _stat(address) if local else None
    try:
        data = read_uri(address, access=access, max_bytes=max_bytes)
    except StoreUnavailable:
        raise
    except StoreError as error:
        if not (is_served(planned) or _is_own_fault(planned, address, error)):
            raise StoreUnavailable(
                f"{root_of(planned).shown} cannot be read now, though photos are said to be there ({error}): mount it, or renew "
                "the credentials, then run the same command again"
            ) from error
        raise
    return data, _tag(planned, address, data, before)


def _require_same_table(address: Address, planned: PlannedPhoto) -> None:
    """Raise NotFound if another table stands there than was planned: its rows may be other photos."""
    standing = _stat(address)
    if standing is not None and standing.etag != planned.etag:
        raise NotFound(f"{address.file.shown} was replaced since it was planned: run the same command again")


def _tag(planned: PlannedPhoto, address: Address, data: bytes, before: Entry | None) -> str | None:
    """A local file has one tag before and after; of a bucket, the tag of an object put in one piece is its MD5."""
    if planned.etag is None or address.cell is not None:
        return planned.etag
    if address.scheme == "file":
        after = _stat(address)
        return after.etag if after is not None and after == before and after.size == len(data) else planned.etag
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if digest == planned.etag or address.scheme != "s3":
        return planned.etag
    standing = _stat(address)
    return digest if standing is not None and standing.etag == digest else planned.etag


def _stat(address: Address) -> Entry | None:
    try:
        return stat_uri(address)
    except StoreError:
        return None


def root_of(planned: PlannedPhoto) -> Address:
    """Where a photo was listed: its address without its key, or without its name where they do not agree."""
    place = parse(planned.uri)  # the address may be quoted, the key is not
    folder = place.path.removesuffix(f"/{planned.key}")
    return place.parent if folder == place.path else Address(place.scheme, place.bucket, folder)


def _is_own_fault(planned: PlannedPhoto, address: Address, error: StoreError) -> bool:
    """Whether a photo that a manifest names, and nobody has listed, cannot be read because of its line: a wrong path say.

    On a disk that is not told from a folder that is not mounted if the nearest folder that is there is empty.
    """
    if planned.etag is not None:
        return False
    if isinstance(error, AccessDenied):
        return error.recognised
    if not isinstance(error, NotFound) or address.scheme != "file":
        return isinstance(error, NotFound)
    folder = next(folder for folder in Path(address.path).parents if folder.is_dir())
    return any(True for _ in folder.iterdir())


def is_served(planned: PlannedPhoto) -> bool:
    """Whether the root of a photo can be listed and holds anything: one request. True for web addresses, which cannot.

    A folder that is there and empty is what remains of a mount, so it counts as not served.
    """
    if parse(planned.uri).scheme in WEB:
        return True
    try:
        return next(iter(open_store(root_of(planned).uri).list()), None) is not None
    except StoreError:
        return False
