"""``make demo SOURCE=…`` with a mistake in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_source_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows.demo", str(tmp_path / "photos"), str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "does not exist" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
