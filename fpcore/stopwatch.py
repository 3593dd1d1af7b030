"""Where the seconds go: one watch, read at the end of each stage."""

from __future__ import annotations

from time import perf_counter


class Stopwatch:
    """Seconds by stage: ``watch(name)`` ends the stage that ran since the last call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = perf_counter()

    def __call__(self, stage: str) -> None:
        """Attribute the time since the last call to ``stage``."""
        now = perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now

    def add(self, seconds: dict[str, float]) -> None:
        """Take over what another watch measured since the last call."""
        for stage, value in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + value
        self.last = perf_counter()
