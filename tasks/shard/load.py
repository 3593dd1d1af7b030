"""From a planned row to a decoded photograph, or to the reason why not."""

from __future__ import annotations

import hashlib
from time import perf_counter

from tasks.photos.decode import Photo, PhotoLimits, decode_photo
from tasks.photos.formats import PhotoError
from tasks.photos.sidecars import read_sidecar, resized
from tasks.shard.boundary import photo_boundary, within
from tasks.shard.loaded import Loaded
from tasks.shard.outcome import Failure
from tasks.store.access import SOURCE_ONLY, Access
from tasks.store.errors import StoreError, StoreFull, StoreUnavailable
from tasks.store.planned import PlannedPhoto
from tasks.store.versions import read_planned


def load(
    planned: PlannedPhoto,
    limits: PhotoLimits,
    *,
    access: Access = SOURCE_ONLY,
    masks: str | None = None,
    depths: str | None = None,
    seconds: float = 600,
) -> Loaded:
    """Read and decode one photo, its mask and its depth map where folders of them are given.

    Whatever is wrong becomes the photo's ``failure``; so does decoding that takes more than ``seconds``.

    Raises StoreError only if the store itself fails, or the source as a whole is not there (then the shard is tried again),
    not for a missing photo.
    """
    loaded, started = Loaded(planned), perf_counter()

    def decode(data: bytes, limits: PhotoLimits) -> Photo:
        return within(seconds, lambda: decode_photo(data, limits), "to decode")

    if planned.problem is not None:
        loaded.fail(Failure("invalid-line", planned.problem))
        return loaded
    with photo_boundary(loaded, "while it was read"):
        try:
            data, loaded.source_etag = read_planned(planned, access, limits.max_bytes)
            loaded.image_id, loaded.source_size = hashlib.sha256(data).hexdigest(), len(data)
            photo = decode(data, limits)
            if masks is not None:
                loaded.mask = resized(read_sidecar(masks, planned.key, "mask", limits, decode), photo.size)
            if depths is not None:
                loaded.depth = read_sidecar(depths, planned.key, "depth map", limits, decode)
            loaded.photo = photo
        except (StoreUnavailable, StoreFull):
            raise
        except StoreError as error:
            raise PhotoError(error.code, str(error)) from error
    loaded.seconds["read"] = perf_counter() - started
    return loaded
