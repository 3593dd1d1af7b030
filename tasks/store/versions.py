"""Which version of a photo was read, and whether the place it was listed in can be read at all."""

from __future__ import annotations

import hashlib

from tasks.store import uris
from tasks.store.errors import StoreError, StoreUnavailable
from tasks.store.objects import Entry, open_store, read_uri
from tasks.store.planned import PlannedPhoto


def read_planned(planned: PlannedPhoto, *, allow_http: bool = False) -> tuple[bytes, str | None]:
    """The bytes of a planned photo and the entity tag of the version they are; the listed tag where none can be told.

    A photo that was replaced since it was planned has another tag: the ledger then knows that version as done.

    Raises:
        StoreUnavailable: also where the source as a whole is not there: an unmounted folder, an expired token. That
            says nothing of the photo, so no row is made of it.
        InvalidLocation, NotFound, AccessDenied: of this photo alone.
    """
    local = planned.etag is not None and uris.parse(planned.uri, allow_http=allow_http).scheme == "file"
    before = _stat(planned.uri) if local else None
    try:
        data = read_uri(planned.uri, allow_http=allow_http)
    except StoreUnavailable:
        raise
    except StoreError as error:
        if not is_served(planned):
            raise StoreUnavailable(
                f"{root_of(planned)} cannot be read now, though photos were listed there ({error}): mount it, or renew "
                "the credentials, then run the same command again"
            ) from error
        raise
    return data, _tag(planned, data, before, local)


def _tag(planned: PlannedPhoto, data: bytes, before: Entry | None, local: bool) -> str | None:
    """A local file has one tag before and after; of a bucket, the tag of an object put in one piece is its MD5."""
    if planned.etag is None or "://" not in planned.uri:
        return planned.etag
    if local:
        after = _stat(planned.uri)
        return after.etag if after is not None and after == before and after.size == len(data) else planned.etag
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if digest == planned.etag or uris.parse(planned.uri).scheme != "s3":
        return planned.etag
    standing = _stat(planned.uri)
    return digest if standing is not None and standing.etag == digest else planned.etag


def _stat(uri: str) -> Entry | None:
    folder, _, name = uri.rpartition("/")
    try:
        return open_store(folder).stat(name)
    except StoreError:
        return None


def root_of(planned: PlannedPhoto) -> str:
    """Where a photo was listed: its address without its key, or without its name where they do not agree."""
    place = uris.parse(planned.uri, allow_http=True)  # the address may be quoted, the key is not
    folder = place.path.removesuffix(f"/{planned.key}")
    if folder == place.path:
        folder = place.path.rpartition("/")[0]
    return str(uris.Location(place.scheme, place.bucket, folder))


def is_served(planned: PlannedPhoto) -> bool:
    """Whether the root of a photo can be listed and holds anything: one request. True for web addresses, which cannot.

    A folder that is there and empty is what remains of a mount, so it counts as not served.
    """
    if uris.parse(planned.uri, allow_http=True).scheme in uris.WEB:
        return True
    try:
        return next(iter(open_store(root_of(planned)).list()), None) is not None
    except StoreError:
        return False
