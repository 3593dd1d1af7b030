"""How far this process has come: counters that a progress bar or an artifact reads."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class Progress:
    """Thread-safe counts by name: photos done, photos failed, network evaluations…"""

    _counts: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, amount: int = 1) -> None:
        """Count ``amount`` more of ``name``."""
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + amount

    def get(self, name: str) -> int:
        """The count of ``name``."""
        with self._lock:
            return self._counts.get(name, 0)

    def clear(self) -> None:
        """Start again from nothing."""
        with self._lock:
            self._counts.clear()


PROGRESS = Progress()
"""This process's counts."""
