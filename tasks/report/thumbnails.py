"""A few photos of a run before and after, small enough to live in Prefect's database."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence

from PIL import Image

from tasks.photos.preview import preview
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
            pair = _readable_pair(ledger, row["source_uri"], row["output_path"])
            if pair is not None:
                yield row["key"], pair
                break


def _readable_pair(ledger: Ledger, source: str, result: str) -> str | None:
    """Two photos side by side, None where one of them cannot be shown."""
    try:
        return _pair(read_uri(source), ledger.store.get(result))
    except Exception:  # whatever is wrong with a picture is a gap, never the end of a run that is done
        return None


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
    image = preview(data, 4 * WIDE)
    return image.resize((WIDE, max(1, round(image.height * WIDE / image.width))), Image.Resampling.LANCZOS)
