"""What the engine remembers of its evaluations: one row per image, step and iteration."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

COLUMNS = ("image", "step", "iteration", "status", "intra", "inter", "bound", "rate")


@dataclass(frozen=True)
class StepRecords:
    """Columns of equal length, ordered by image, step and iteration.

    ``image``, ``step``, ``iteration`` (from 1) and ``status`` are int64; ``intra``, ``inter`` (NaN where not measured),
    ``bound`` and ``rate`` are float64.
    """

    image: NDArray[np.int64]
    step: NDArray[np.int64]
    iteration: NDArray[np.int64]
    status: NDArray[np.int64]
    intra: NDArray[np.float64]
    inter: NDArray[np.float64]
    bound: NDArray[np.float64]
    rate: NDArray[np.float64]

    def of_image(self, image: int) -> StepRecords:
        """The rows of one image."""
        low, high = np.searchsorted(self.image, [image, image + 1])
        return StepRecords(*(getattr(self, name)[low:high] for name in COLUMNS))

    def __len__(self) -> int:
        return len(self.image)


@dataclass
class Recorder:
    """Gathers a small array per evaluation; sorting waits for the end."""

    calls: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, *columns: NDArray[np.generic]) -> None:
        """One call's columns in the order of ``COLUMNS``, active rows only."""
        self.calls.append(np.stack([c.astype(np.float64) for c in columns]))

    def finish(self) -> StepRecords:
        """All rows in order."""
        table = np.concatenate(self.calls, 1) if self.calls else np.empty((len(COLUMNS), 0))
        table = table[:, np.lexsort((table[2], table[1], table[0]))]
        return StepRecords(*(table[i].astype(np.int64) for i in range(4)), *table[4:])
