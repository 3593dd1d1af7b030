"""What a commit says of its rows in its footer, so that nobody has to read them in order to count."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

from tasks.store.errors import Corrupt
from tasks.store.schema import STAGES

COUNTED = ("row", "status", "error_code", "verdict", "nfe", "timings", "source_size", "source_etag")
"""Columns of a shard that the facts are made from."""


@dataclass(frozen=True)
class Totals:
    """Sums over committed rows. ``seconds``: over all stages and photos; ``verdicts``, ``codes``: rows by value."""

    rows: int = 0
    ok: int = 0
    failed: int = 0
    nfe: int = 0
    seconds: float = 0.0
    verdicts: dict[str, int] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            rows=self.rows + other.rows,
            ok=self.ok + other.ok,
            failed=self.failed + other.failed,
            nfe=self.nfe + other.nfe,
            seconds=self.seconds + other.seconds,
            verdicts=dict(Counter(self.verdicts) + Counter(other.verdicts)),
            codes=dict(Counter(self.codes) + Counter(other.codes)),
        )


class Failure(NamedTuple):
    """A failed row of a shard and its error code."""

    row: int
    code: str


class Replaced(NamedTuple):
    """A row whose photo was another version than the planned one when it was read: what was read."""

    row: int
    size: int | None
    etag: str | None


@dataclass(frozen=True)
class ShardFacts:
    """Totals of a shard, its failed rows, its photos that had been replaced, and the run that committed it."""

    totals: Totals
    failures: tuple[Failure, ...] = ()
    replaced: tuple[Replaced, ...] = ()
    run_id: str | None = None

    def footer(self) -> dict[str, Any]:
        """As entries of the commit's footer."""
        return {**vars(self.totals), "failures": list(self.failures), "replaced": list(self.replaced)}


def facts_of(rows: pa.Table, planned: pa.Table) -> ShardFacts:
    """The facts of a shard's rows, which are sorted by row as the planned ones are."""
    status = rows["status"].to_pylist()
    codes = rows["error_code"].to_pylist()
    failures = [
        Failure(row, code or "unknown")
        for row, state, code in zip(rows["row"].to_pylist(), status, codes, strict=True)
        if state != "ok"
    ]
    timings = rows["timings"].combine_chunks()
    seconds = sum(pc.sum(pc.struct_field(timings, stage)).as_py() or 0.0 for stage in STAGES)
    totals = Totals(
        rows=len(rows),
        ok=len(rows) - len(failures),
        failed=len(failures),
        nfe=pc.sum(rows["nfe"]).as_py() or 0,
        seconds=round(seconds, 3),
        verdicts=dict(sorted(Counter(v for v in rows["verdict"].to_pylist() if v).items())),
        codes=dict(sorted(Counter(failure.code for failure in failures).items())),
    )
    return ShardFacts(totals, tuple(failures), tuple(_replaced(rows, planned)))


def _replaced(rows: pa.Table, planned: pa.Table) -> list[Replaced]:
    """Rows that were read as another version than the listing had told."""
    columns = (rows["row"], rows["source_size"], rows["source_etag"], planned["etag"])
    return [
        Replaced(row, size, etag)
        for row, size, etag, listed in zip(*(c.to_pylist() for c in columns), strict=True)
        if etag is not None and listed is not None and etag != listed
    ]


def facts_from(footer: dict[str, Any], name: str) -> ShardFacts | None:
    """The facts that the footer of the commit ``name`` holds; None if the version that wrote it did not put them there.

    Raises:
        Corrupt: if they are not what a footer holds.
    """
    if "failures" not in footer:
        return None
    told = {key: footer[key] for key in ("failures", "replaced", "run_id") if key in footer}
    totals = {key: footer[key] for key in Totals.__dataclass_fields__ if key in footer}
    try:
        return _FACTS.validate_python({"totals": totals, **told})
    except ValidationError as error:
        raise Corrupt(
            f"{name} has a footer that Fixpoint did not write: remove it or restore it from a copy"
        ) from error


_FACTS = TypeAdapter(ShardFacts)
