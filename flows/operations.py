"""The batch flows by the name of what they do."""

from __future__ import annotations

from typing import Any

from prefect import Flow

from flows.dehaze import dehaze
from flows.edit import edit
from flows.invert import invert
from flows.restore import restore

FLOWS: dict[str, Flow[..., Any]] = {"dehaze": dehaze, "edit": edit, "invert": invert, "restore": restore}
