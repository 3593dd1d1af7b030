"""Pictures under images/: each created once, before the commit that names it; names that clean-up takes are given up.

A run that starts while ``gc`` deletes leftovers may find its own picture among them, equal bit by bit, and name it in a
commit. So names are given up before anything is deleted, in a record that stays, and never used again:

1. ``gc`` records the names of its leftovers, each create exclusive and flushed like all others;
2. it looks whether there is a plan that it has not counted with, and if so deletes nothing;
3. it deletes.

A run makes its plan first and reads the records then. A plan that step 2 did not find was made after step 1, so its
pictures get other names; a plan that was there before has all of its commits read. Nothing of this asks the clock, and
it holds wherever ``gc`` is killed and however late one of its deletions arrives.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import posixpath
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from tasks.store import parquet
from tasks.store.errors import Corrupt, InvalidLocation
from tasks.store.names import GIVEN_UP, IMAGES
from tasks.store.objects import Store
from tasks.store.uris import safe_key

SAME_FORMAT = (
    frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}),
    frozenset({".tif", ".tiff"}),
    frozenset({".heic", ".heif", ".hif"}),
)
"""File name extensions of one format: a picture keeps its photo's own."""

NAMES = pa.schema([pa.field("name", pa.string(), metadata={"description": "a picture's name that is given up"})])
"""One record of ``given-up/``."""


@dataclass(frozen=True)
class Picture:
    """A stored picture: key relative to the output root, and SHA-256 (hex) of its bytes."""

    path: str
    sha256: str


@dataclass(frozen=True)
class GivenUp:
    """The names that no picture may have any more, and how many records say so."""

    names: frozenset[str]
    records: int


class Pictures:
    """The pictures of one output store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._given_up_at = functools.lru_cache(maxsize=4)(self._known_in)

    def put(self, plan: int, key: str, data: bytes, suffix: str) -> Picture:
        """Store the picture of the photo ``key``, before the commit that names it.

        Pictures are created once and never replaced, so a commit can vouch for them. If other bytes stand under the
        name (a racing attempt on other hardware, an earlier version of the photo), the name gets the digest's start.
        Where a disk has a folder of that name, the picture goes to images/ itself.

        Args:
            plan: number of the plan that has the photo; it exists already.
            suffix: the file name extension with its dot.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        given_up = self._given_up_at(plan)
        for path in _names(picture_key(key, suffix), sha256[:16], given_up.records):
            if path in given_up.names:
                continue
            with contextlib.suppress(InvalidLocation):  # on disk, where a folder has the name of a file
                if self.store.put_new(path, data).won:
                    return Picture(path, sha256)
        name = self.store.shown(picture_key(key, suffix))
        raise Corrupt(f"{name} and its other names are damaged: remove them, then run the same command again")

    def give_up(self, names: set[str]) -> None:
        """Record that no run that begins from now on may use these names. Raises StoreError."""
        if new := sorted(names - self.given_up().names):
            data = parquet.encode(pa.table([new], schema=NAMES), {"attempt_id": uuid.uuid4().hex})
            self.store.put_new(f"{GIVEN_UP}{uuid.uuid4().hex}.parquet", data)

    def given_up(self) -> GivenUp:
        """What is recorded now.

        Raises:
            Corrupt: what is stored differs from what was written.
            UnknownSchema: it was written by a later version.
        """
        records = [entry.key for entry in self.store.list(GIVEN_UP) if entry.key.endswith(".parquet")]
        tables = [parquet.decode(self.store.get(key), str(self.store.shown(key)), NAMES) for key in records]
        return GivenUp(frozenset(name for table in tables for name in table["name"].to_pylist()), len(tables))

    def _known_in(self, plan: int) -> GivenUp:
        """What is recorded after the plan was made: kept for its shards."""
        del plan
        return self.given_up()


def picture_key(key: str, suffix: str) -> str:
    """Key of a photo's picture: images/ and the photo's own path, with ``suffix`` added where it names another format."""
    safe = safe_key(key)
    own = posixpath.splitext(safe)[1].lower()
    same = own == suffix or any({own, suffix} <= family for family in SAME_FORMAT)
    return IMAGES + (safe if same else safe + suffix)


def _names(own: str, mark: str, records: int) -> Iterator[str]:
    """The names a picture may have, the first free one counts."""
    stem, ending = posixpath.splitext(own)
    marked = f"{stem}.{mark}{ending}"
    yield from (own, marked, f"{IMAGES}{posixpath.basename(marked)}")
    if records:  # no earlier run can have used the last, so none of the records names it
        yield f"{stem}.{mark}-{records}{ending}"
