"""Stopping in good order: a running network call cannot be interrupted, the loop around it can."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


class Event(Protocol):
    """What ``threading`` and ``multiprocessing`` events have in common."""

    def is_set(self) -> bool:
        """Whether it happened."""

    def set(self) -> None:
        """Let it happen."""

    def clear(self) -> None:
        """Forget it."""


@dataclass
class Interruption:
    """Whether the run of this process is to stop; worker processes share the event of the run that started them."""

    event: Event = field(default_factory=threading.Event)

    def or_after(self, seconds: float) -> Callable[[], bool]:
        """A question to ask between two network calls: stop now? True after an interruption, or after ``seconds``."""
        deadline = time.monotonic() + seconds
        return lambda: self.event.is_set() or time.monotonic() > deadline


INTERRUPTION = Interruption()
"""This process's interruption."""
