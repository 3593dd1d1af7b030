"""How far this process has come: counters that a progress bar or an artifact reads, and a run's pace."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass, field


def worker() -> str:
    """The name of this process among all machines: host (or pod) and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


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


@dataclass
class Pace:
    """Photos done of those expected, photos a second, time left."""

    expected: int
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def percent(self) -> float:
        """Share done, 0 to 100."""
        return min(100.0, 100 * self.done / self.expected) if self.expected else 100.0

    def __str__(self) -> str:
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        text = f"{self.done} of {self.expected} photos"
        if not self.done:
            return text
        left = max(self.expected - self.done, 0) / rate
        return f"{text}, {rate:.3g} photos/s, {duration(left)} left"


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
