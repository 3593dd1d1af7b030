"""Why a photo can fail, as one word in the column ``error_code``, and which of these reasons another try can cure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum


class ErrorCode(StrEnum):
    """Every reason for a failed row."""

    ANIMATED = "animated"
    DAMAGED = "damaged"
    EMPTY_FILE = "empty-file"
    INCONSISTENT_SIZE = "inconsistent-size"
    INVALID_LINE = "invalid-line"
    MULTI_PAGE = "multi-page"
    NON_FINITE = "non-finite"
    NOT_AN_IMAGE = "not-an-image"
    OUT_OF_MEMORY = "out-of-memory"
    PANORAMA = "panorama"
    TOO_LARGE = "too-large"
    TOO_MANY_PIXELS = "too-many-pixels"
    TOO_SLOW = "too-slow"
    TOOK_TOO_LONG = "took-too-long"
    TRUNCATED = "truncated"
    UNEXPECTED = "unexpected"
    UNFIT_PROMPTS = "unfit-prompts"
    UNREACHABLE = "unreachable"
    UNREADABLE = "unreadable"
    UNSUPPORTED_FORMAT = "unsupported-format"
    UNSUPPORTED_MODE = "unsupported-mode"
    VIDEO = "video"


RETRYABLE = frozenset(
    {
        ErrorCode.UNREADABLE,
        ErrorCode.UNREACHABLE,
        ErrorCode.TOO_SLOW,
        ErrorCode.TOOK_TOO_LONG,
        ErrorCode.OUT_OF_MEMORY,
    }
)
"""Reasons that lie in the source or the machine, not in the file: the next run tries these photos again.

All others are final: the same bytes fail in the same way, until somebody replaces the file or asks for another try.
"""


@dataclass(frozen=True)
class RetryRule:
    """Which failed photos a plan takes up again: those with one of ``codes`` and fewer than ``limit`` attempts.

    ``asked``: codes that are tried again whatever the number of attempts. None stands for every code.
    """

    codes: Collection[str] | None = RETRYABLE
    limit: int = 3
    asked: Collection[str] | None = ()

    def admits(self, code: str, attempt: int) -> bool:
        """Whether a photo that failed with ``code`` in its ``attempt``-th attempt is tried again."""
        if self.asked is None or code in self.asked:
            return True
        return attempt < self.limit and (self.codes is None or code in self.codes)


def asked_codes(text: str) -> Collection[str] | None:
    """The codes that somebody named, separated by commas; None for "all".

    Raises:
        ValueError: for a word that is no error code.
    """
    names = frozenset(word.strip() for word in text.split(",") if word.strip())
    if "all" in names:
        return None
    if strange := sorted(names - set(ErrorCode)):
        raise ValueError(f"{', '.join(strange)} is no error code: choose among all, {', '.join(sorted(ErrorCode))}")
    return names


NIGHTLY = RetryRule()
"""What every run does unasked."""
