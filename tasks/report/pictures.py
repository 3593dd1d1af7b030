"""The pictures of a report: chosen photos, read at full resolution, shrunk and inlined as JPEG."""

# ruff: noqa: S608  (names inside the SQL are constants of this package; values are parameters)

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import duckdb
from PIL import Image

from tasks.analytics.committed import Output, Shard, read_rows
from tasks.photos.preview import preview
from tasks.report.data import FLAGGED, PHOTO_COLUMNS, rows
from tasks.store.objects import read_uri
from tasks.store.retry import RetryPolicy

WIDE = 640
"""Longest side in pixels of the before and after pictures."""
SMALL = 320
"""Longest side of haze maps."""

_PATIENCE = RetryPolicy(attempts=2, budget=10.0, request_timeout=10.0)
"""A report can do without a picture; it does not wait as long as a run does."""


@dataclass(frozen=True)
class Shown:
    """One photo of one run as the report shows it; pictures are data URIs, None where there is none to read."""

    facts: dict[str, Any]
    before: str | None
    after: str | None
    haze: str | None
    reasons: tuple[str, ...]
    width: int
    height: int


def sample_keys(connection: duckdb.DuckDBPyConnection, runs: Sequence[str], count: int) -> list[str]:
    """At most ``count`` photos that every run finished, spread evenly over the keys in order."""
    query = """WITH shared AS (SELECT key FROM images WHERE status = 'ok' AND list_contains($1, run)
                               GROUP BY key HAVING count(DISTINCT run) = $2),
                    numbered AS (SELECT key, row_number() OVER (ORDER BY key) - 1 AS n, count(*) OVER () AS total
                                 FROM shared)
               SELECT key FROM numbered WHERE n = 0 OR n * $3 // total > (n - 1) * $3 // total
               ORDER BY key LIMIT $3"""
    return [row["key"] for row in rows(connection, query, list(runs), len(runs), count)]


def photos_of(connection: duckdb.DuckDBPyConnection, run: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The latest row of each of ``keys`` that is ok, in their order."""
    query = f"""SELECT {PHOTO_COLUMNS} FROM images WHERE run = ? AND status = 'ok' AND list_contains(?, key)
                QUALIFY row_number() OVER (PARTITION BY key ORDER BY plan DESC, shard DESC, row DESC) = 1"""
    found = {row["key"]: row for row in rows(connection, query, run, list(keys))}
    return [found[key] for key in keys if key in found]


def flagged_photos(connection: duckdb.DuckDBPyConnection, run: str, count: int) -> list[dict[str, Any]]:
    """The photos worth a look: failed first, then collapsed, then the largest loss of PSNR, then the rest."""
    query = f"""SELECT {PHOTO_COLUMNS} FROM images WHERE run = ? AND {FLAGGED}
                ORDER BY status = 'ok', coalesce(verdict, '') <> 'collapsed',
                         coalesce(metrics['psnr_output'] - metrics['psnr_input'], 0),
                         coalesce(inversion_status, 'converged') IN ('converged', 'completed'), key LIMIT ?"""
    return rows(connection, query, run, count)


def reasons(photo: dict[str, Any]) -> tuple[str, ...]:
    """Why a photo is worth a look, in plain words; empty for an ordinary one."""
    if photo["status"] != "ok":
        return (f"Failed ({photo['error_code'] or 'no code'}): {photo['error_message'] or 'no message was recorded.'}",)
    said = []
    strength = photo["strength"]
    share = f" {strength:.0%} of the edit was applied." if strength is not None and strength < 1 else ""
    verdict = {
        "collapsed": "Collapsed: the result lost the structure of the photo.",
        "gently": "Gently: the edit was held back." + share,
        "unchanged": "Unchanged: the photo was left as it was.",
    }
    if photo["verdict"] not in (None, "cleared"):
        said.append(verdict.get(photo["verdict"], f"Verdict: {photo['verdict']}."))
    if photo["inversion_status"] not in (None, "converged", "completed"):
        said.append(f"The inversion did not converge: {photo['inversion_status']}.")
    before, after = photo["psnr_input"], photo["psnr_output"]
    if before is not None and after is not None and after < before:
        said.append(f"Further from the ground truth than before: {before:.1f} → {after:.1f} dB.")
    return tuple(said)


def show(output: Output, photos: Sequence[dict[str, Any]], allowance: int) -> list[Shown]:
    """Read and shrink the pictures of ``photos``, each picture at most about ``allowance`` bytes of JPEG."""
    stored = _stored(output, photos)
    with ThreadPoolExecutor(4, thread_name_prefix="report-picture") as pool:
        return list(pool.map(lambda photo: _show(output, photo, stored, allowance), photos))


def _show(output: Output, photo: dict[str, Any], stored: dict[tuple[int, int, int], Any], allowance: int) -> Shown:
    row = stored.get(_place(photo), {})
    before = _read(photo["source_uri"])
    after = _read_output(output, photo["output_path"]) or _decode(row.get("output"))
    if before and after:
        after = after.resize(before.size, Image.Resampling.LANCZOS) if after.size != before.size else after
    size = (before or after or Image.new("RGB", (3, 2))).size
    return Shown(
        facts=photo,
        before=_inline(before, allowance),
        after=_inline(after, allowance),
        haze=_inline(_decode(row.get("haze_map")), allowance // 4),
        reasons=reasons(photo),
        width=size[0],
        height=size[1],
    )


def _place(photo: dict[str, Any]) -> tuple[int, int, int]:
    return photo["plan"], photo["shard"], photo["row"]


def _stored(output: Output, photos: Sequence[dict[str, Any]]) -> dict[tuple[int, int, int], Any]:
    """The small pictures inside the shards (result at model size, haze map) of ``photos``, by plan, shard and row."""
    wanted: dict[str, set[int]] = {}
    for photo in photos:
        wanted.setdefault(f"{photo['plan']:06d}-{photo['shard']:05d}.parquet", set()).add(photo["row"])
    found = {}
    for name, numbers in wanted.items():
        for row in read_rows(output, Shard(name), ("plan", "shard", "output", "haze_map"), numbers):
            found[_place(row)] = row
    return found


def _read(uri: str | None) -> Image.Image | None:
    """The photo at ``uri``, upright and shrunk; None where it cannot be read."""
    if not uri:
        return None
    try:
        return preview(read_uri(uri, _PATIENCE), WIDE)
    except Exception:  # whatever is wrong with a picture is a gap in the report, never the report's end
        return None


def _read_output(output: Output, path: str | None) -> Image.Image | None:
    if not path:
        return None
    try:
        return preview(output.store.get(path), WIDE)
    except Exception:  # as above
        return None


def _decode(stored: dict[str, Any] | None) -> Image.Image | None:
    if not stored or not stored.get("bytes"):
        return None
    try:
        return preview(stored["bytes"], WIDE)
    except Exception:  # as above
        return None


def _inline(image: Image.Image | None, allowance: int) -> str | None:
    """A JPEG data URI of at most about ``allowance`` bytes, by lower quality first and then by fewer pixels."""
    if image is None:
        return None
    data = b""
    for quality, scale in ((82, 1.0), (70, 1.0), (55, 1.0), (55, 0.7), (45, 0.5)):
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        buffer = io.BytesIO()
        (image if scale == 1 else image.resize(size, Image.Resampling.LANCZOS)).save(
            buffer, "JPEG", quality=quality, optimize=True
        )
        data = buffer.getvalue()
        if len(data) <= allowance:
            break
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()
