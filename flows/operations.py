"""The batch flows by the name of what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flows.dehaze import dehaze

FLOWS: dict[str, Callable[..., dict[str, Any]]] = {"dehaze": dehaze}
