"""A planned photo on its way through the shard."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt

from fpcore.dehazing.haze_estimate import HazeView
from tasks.photos.decode import Photo
from tasks.photos.sidecars import Grey
from tasks.shard.outcome import Columns, Failure
from tasks.store.planned import PlannedPhoto

TOO_LARGE = Failure("out-of-memory", "Decoding needs more memory than there is. Use fewer workers or smaller photos.")


@dataclass
class Loaded:
    """A planned photo on its way through the shard. ``failure`` once something is wrong with it."""

    planned: PlannedPhoto
    image_id: str | None = None
    source_size: int | None = None
    source_etag: str | None = None
    """Entity tag of the version that was read."""
    photo: Photo | None = None
    stowed: bytes | None = None
    """The photo's file, while its pixels are given up so that many more photos can wait for the device."""
    small: npt.NDArray[np.float32] | None = None
    """(3, h, w) in [0, 1]: the photo at the model's size."""
    view: HazeView | None = None
    """What its haze is estimated from; None for other operations than dehazing."""
    mask: Grey | None = None
    """(H, W) in [0, 1] at the photo's own size: how much of the edit each pixel takes; None = all."""
    depth: Grey | None = None
    failure: Failure | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage, see ``tasks.store.schema.STAGES``."""
    processed_at: datetime | None = None
    columns: Columns = field(default_factory=Columns)
    """What the operation and the publication add to the committed row."""

    def fail(self, failure: Failure) -> None:
        """Give up on this photo; its neighbours go on."""
        self.failure = failure
        self.photo = self.stowed = self.small = self.view = self.mask = self.depth = None

    def stow(self) -> None:
        """Keep the photo's file instead of its pixels, until it is to be written."""
        if self.photo is not None and self.photo.file is not None and self.mask is None:
            self.stowed = self.photo.file
            self.photo = None

    @property
    def pixels_held(self) -> int:
        """What is held of it in memory at its own size, in pixels of three bytes."""
        return len(self.stowed or b"") // 3 if self.photo is None else self.photo.pixels.size // 3
