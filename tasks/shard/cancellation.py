"""Stopping in good order: a running network call cannot be interrupted, the loop around it can."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

Stop = Callable[[], bool] | None
"""A question asked between two evaluations: stop now? None: never."""


class Event(Protocol):
    """What ``threading`` and ``multiprocessing`` events have in common."""

    def is_set(self) -> bool:
        """Whether it happened."""

    def set(self) -> None:
        """Let it happen."""

    def clear(self) -> None:
        """Forget it."""


_event: Event = threading.Event()


def share(event: Event) -> Event:
    """Use an event that several processes share, or the one from before again; the one that was in use."""
    global _event
    before, _event = _event, event
    return before


def request() -> None:
    """Interrupt whatever runs."""
    _event.set()


def forget() -> None:
    """A new run begins."""
    _event.clear()


def requested() -> bool:
    """Whether what runs here is to stop."""
    return _event.is_set()


def or_after(seconds: float) -> Callable[[], bool]:
    """A question to ask between two network calls: stop now? True after an interruption, or after ``seconds``."""
    deadline = time.monotonic() + seconds
    return lambda: requested() or time.monotonic() > deadline
