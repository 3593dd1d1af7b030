"""The README's commands do what they say, as printed: its other lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.readme.blocks import OTHERS, run_as_printed

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("line", [line for line in OTHERS if not line.startswith("fixpoint edit")])
def test_commands_run_as_printed(place: Path, line: str) -> None:
    run_as_printed(line, place)
