"""One photo of a plan, typed: what the ledger hands to whoever processes a shard."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class PlannedPhoto:
    """A row of a plan, ``uri`` empty where its line could not be read. Names and meanings are those of
    ``tasks.store.schema.PLAN``; an unknown name is a TypeError."""

    shard: int
    row: int
    key: str
    uri: str
    size: int | None = None
    etag: str | None = None
    prompt: str | None = None
    target_prompt: str | None = None
    blended_word: str | None = None
    mask: list[int] | None = None
    edit_settings: str | None = None
    editing_type: str | None = None
    seed: int | None = None
    attempt: int | None = None
    problem: str | None = None


def planned_photos(plan: pa.Table) -> list[PlannedPhoto]:
    """The rows of (part of) a plan, in its order. Raises TypeError for a column that no plan has."""
    return [PlannedPhoto(**row) for row in plan.to_pylist()]
