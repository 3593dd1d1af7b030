"""The batch flows by the name of what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flows.dehaze import dehaze
from flows.edit import edit
from flows.invert import invert

FLOWS: dict[str, Callable[..., dict[str, Any]]] = {"dehaze": dehaze, "edit": edit, "invert": invert}
