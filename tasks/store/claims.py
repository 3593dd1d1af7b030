"""Which photos of a listing are new, and which failed ones are to be tried again."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.store.error_codes import RetryRule
from tasks.store.history import OK, History
from tasks.store.identity import identities, identity

BATCH = 10_000
"""Listed photos that are looked up at a time."""


class Claims:
    """A multiset of planned photos: each claim covers one listed photo. Nothing is copied from the history."""

    def __init__(self, history: History, rule: RetryRule) -> None:
        self._photos, self._states, self._rule = history.photos, history.states, rule
        self._heads, self._tails = (np.ascontiguousarray(history.photos[name]) for name in ("head", "tail"))
        self._used: Counter[int] = Counter()
        self._meanwhile: Counter[tuple[bytes, int]] = Counter()

    def unclaimed(self, entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The entries that are to be planned, each with its ``attempt``: new ones, and failed ones to be tried again."""
        listed = iter(entries)
        while batch := list(itertools.islice(listed, BATCH)):
            digests = [identity(entry) for entry in batch]
            for entry, digest, index in zip(batch, digests, self._find(digests), strict=True):
                attempt = self._attempt(digest, index)
                if attempt and not self._taken(digest, attempt):
                    yield {**entry, "attempt": attempt}

    def _find(self, digests: list[bytes]) -> list[int]:
        """Index of the first photo of each identity, -1 where there is none."""
        found = np.full(len(digests), -1)
        if not len(self._heads):
            return [int(index) for index in found]
        wanted: npt.NDArray[np.uint64] = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
        first = np.searchsorted(self._heads, wanted[:, 0], "left")
        for _ in range(3):  # more photos that share half of their identities and nothing else do not come up
            inside = np.minimum(first, len(self._heads) - 1)
            same = (self._heads[inside] == wanted[:, 0]) & (first < len(self._heads))
            hit = same & (self._tails[inside] == wanted[:, 1])
            found = np.where((found < 0) & hit, inside, found)
            first = np.where(same & ~hit, first + 1, first)
        return [int(index) for index in found]

    def _attempt(self, digest: bytes, index: int) -> int:
        """The attempt to plan for a listed photo: 1 for a new one, 0 for one that needs none."""
        if index < 0:
            return 1
        at = index + self._used.get(index, 0)
        if at >= len(self._photos) or self._heads[at] != self._heads[index] or self._tails[at] != self._tails[index]:
            return 1
        self._used[index] += 1
        if (state := self._photos[at]["state"]) <= OK:
            return 0
        attempt = int(self._photos[at]["attempt"])
        return attempt + 1 if self._rule.admits(self._states[state], attempt) else 0

    def add(self, plan: pa.Table) -> None:
        """Another run has just planned these."""
        attempts = plan["attempt"].fill_null(1).to_pylist()
        self._meanwhile.update(
            (digest, attempt) for (digest, _), attempt in zip(identities(plan), attempts, strict=True)
        )

    def left(self, chosen: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of the chosen entries that no other run has planned meanwhile."""
        return [entry for entry in chosen if not self._taken(identity(entry), int(entry["attempt"]))]

    def _taken(self, digest: bytes, attempt: int) -> bool:
        if self._meanwhile.get((digest, attempt), 0) <= 0:
            return False
        self._meanwhile[digest, attempt] -= 1
        return True
