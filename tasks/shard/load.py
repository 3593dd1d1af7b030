"""From a planned row to a decoded photograph, or to the reason why not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import numpy.typing as npt

from tasks.photos.decode import Photo, PhotoLimits, decode_photo
from tasks.photos.formats import PhotoError
from tasks.photos.sidecars import Grey, read_sidecar, resized
from tasks.shard.outcome import Columns, Failure
from tasks.store.access import SOURCE_ONLY, Access
from tasks.store.errors import StoreError, StoreFull, StoreUnavailable
from tasks.store.objects import read_uri
from tasks.store.planned import PlannedPhoto

TOO_LARGE = Failure("too-large", "Decoding needs more memory than there is. Use fewer workers or smaller photos.")


@dataclass
class Loaded:
    """A planned photo on its way through the shard. ``failure`` once something is wrong with it."""

    planned: PlannedPhoto
    image_id: str | None = None
    source_size: int | None = None
    photo: Photo | None = None
    small: npt.NDArray[np.float32] | None = None
    """(3, h, w) in [0, 1]: the photo at the model's size."""
    darkest: float = 0.0
    """In [0, 1], of the photo at its own size (``fpcore.dehazing.haze_density.darkest_value``)."""
    mask: Grey | None = None
    """(H, W) in [0, 1] at the photo's own size: how much of the edit each pixel takes; None = all."""
    depth: Grey | None = None
    failure: Failure | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage, see ``tasks.store.schema.STAGES``."""
    columns: Columns = field(default_factory=Columns)
    """What the operation and the publication add to the committed row."""

    def fail(self, failure: Failure) -> None:
        """Give up on this photo; its neighbours go on."""
        self.failure = failure
        self.photo = self.small = self.mask = self.depth = None


def load(
    planned: PlannedPhoto,
    limits: PhotoLimits,
    *,
    access: Access = SOURCE_ONLY,
    masks: str | None = None,
    depths: str | None = None,
) -> Loaded:
    """Read and decode one photo, its mask and its depth map where folders of them are given.

    Whatever is wrong becomes the photo's ``failure``.

    Raises StoreError only if the store itself fails (then the shard is tried again), not for a missing photo.
    """
    loaded, started = Loaded(planned), perf_counter()
    if planned.problem is not None:
        loaded.fail(Failure("invalid-line", planned.problem))
        return loaded
    try:
        data = read_uri(planned.uri, access=access, max_bytes=limits.max_bytes)
        loaded.image_id, loaded.source_size = hashlib.sha256(data).hexdigest(), len(data)
        photo = decode_photo(data, limits)
        if masks is not None:
            loaded.mask = resized(read_sidecar(masks, planned.key, "mask", limits), photo.size)
        if depths is not None:
            loaded.depth = read_sidecar(depths, planned.key, "depth map", limits)
        loaded.photo = photo
    except PhotoError as error:
        loaded.fail(Failure(error.code, str(error)))
    except MemoryError:
        loaded.fail(TOO_LARGE)
    except (StoreUnavailable, StoreFull):
        raise
    except StoreError as error:
        loaded.fail(Failure(error.code, str(error)))
    loaded.seconds["read"] = perf_counter() - started
    return loaded
