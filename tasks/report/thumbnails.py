"""A few photos of a run before and after, small enough to live in Prefect's database."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from tasks.photos.decode import decode_photo
from tasks.photos.formats import PhotoError
from tasks.store.errors import StoreError
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store, read_uri

WIDE = 300
"""Width in pixels of one of the two pictures."""
MAX_BYTES = 25_000_000
"""Larger photos are left out: a thumbnail is not worth reading them again."""


def before_and_after(output: str, shards: Sequence[tuple[int, int]], count: int = 3) -> Iterator[tuple[str, str]]:
    """(key, data URI of a JPEG with the photo left and its result right) of at most ``count`` committed shards.

    ``shards``: pairs of plan and shard. The first finished photo of each of them that can be read is taken.
    """
    ledger = Ledger(open_store(output))
    for plan, shard in shards[:: max(1, len(shards) // count)][:count]:
        rows = ledger.read_shard(plan, shard, ["key", "status", "source_uri", "source_size", "output_path"]).to_pylist()
        for row in rows:
            if row["status"] != "ok" or row["output_path"] is None or (row["source_size"] or 0) > MAX_BYTES:
                continue
            try:
                pair = _pair(read_uri(row["source_uri"]), ledger.store.get(row["output_path"]))
            except (StoreError, PhotoError):
                continue
            yield row["key"], pair
            break


def _pair(before: bytes, after: bytes) -> str:
    """Two photos side by side as a data URI."""
    left, right = _small(before), _small(after)
    canvas = Image.new("RGB", (2 * WIDE + 4, max(left.height, right.height)), "white")
    canvas.paste(left, (0, 0))
    canvas.paste(right, (WIDE + 4, 0))
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _small(data: bytes) -> Image.Image:
    """A photo of any kind at ``WIDE`` pixels."""
    pixels = decode_photo(data).pixels
    if pixels.dtype != np.uint8:
        pixels = (pixels >> 8).astype(np.uint8)
    image = Image.fromarray(pixels)
    return image.resize((WIDE, max(1, round(image.height * WIDE / image.width))), Image.Resampling.LANCZOS)
