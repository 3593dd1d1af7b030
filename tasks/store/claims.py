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

Indices = npt.NDArray[np.int64]
BATCH = 10_000
"""Listed photos that are looked up at a time."""


class Claims:
    """A multiset of planned photos: each claim covers one listed photo. Nothing is copied from the history."""

    def __init__(self, history: History, rule: RetryRule) -> None:
        self._photos, self._names, self._rule = history.photos, history.states, rule
        columns = (np.ascontiguousarray(history.photos[name]) for name in ("head", "tail", "state"))
        self._heads, self._tails, self._states = columns
        self._used = np.zeros(len(self._photos), np.int32)
        self._meanwhile: Counter[tuple[bytes, int]] = Counter()

    def unclaimed(self, entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The entries that are to be planned, each with its ``attempt``: new ones, and failed ones to be tried again."""
        listed = iter(entries)
        while batch := list(itertools.islice(listed, BATCH)):
            digests = [identity(entry) for entry in batch]
            attempts = self._attempts(self._find(digests))
            for i in attempts.nonzero()[0]:
                attempt = int(attempts[i])
                if not self._taken(digests[i], attempt):
                    yield {**batch[i], "attempt": attempt}

    def _find(self, digests: list[bytes]) -> Indices:
        """Index of the first photo of each identity, -1 where there is none."""
        found = np.full(len(digests), -1)
        if not len(self._heads):
            return found
        wanted: npt.NDArray[np.uint64] = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
        first = np.searchsorted(self._heads, wanted[:, 0], "left")
        for _ in range(3):  # more photos that share half of their identities and nothing else do not come up
            inside = np.minimum(first, len(self._heads) - 1)
            same = (self._heads[inside] == wanted[:, 0]) & (first < len(self._heads))
            hit = same & (self._tails[inside] == wanted[:, 1])
            found = np.where((found < 0) & hit, inside, found)
            first = np.where(same & ~hit, first + 1, first)
        return found

    def _attempts(self, found: Indices) -> Indices:
        """The attempt to plan for each listed photo: 1 for a new one, 0 for one that needs none."""
        if not len(self._photos):
            return np.ones_like(found)
        known = found[found >= 0]
        if self._used[known].any() or len(np.unique(known)) < len(known):  # listed more than once
            return np.array([self._attempt(int(index)) for index in found])
        self._used[known] = 1
        attempts = np.where(found < 0, 1, 0)
        for i in ((found >= 0) & (self._states[found] > OK)).nonzero()[0]:
            attempts[i] = self._again(int(found[i]))
        return attempts

    def _attempt(self, index: int) -> int:
        """The same for one, whose identity may have been listed before."""
        if index < 0:
            return 1
        at = index + int(self._used[index])
        if at >= len(self._photos) or self._heads[at] != self._heads[index] or self._tails[at] != self._tails[index]:
            return 1
        self._used[index] += 1
        return self._again(at) if self._states[at] > OK else 0

    def _again(self, at: int) -> int:
        """The next attempt at a photo that failed, 0 if it is not to be tried."""
        attempt = int(self._photos[at]["attempt"])
        return attempt + 1 if self._rule.admits(self._names[self._states[at]], attempt) else 0

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
