"""The README's blocks of code, and how they are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
MAKE, INSTALL = "make ", "python3 -m venv"  # run by the nightly workflow and by tests/test_wheel.py
SHELL = [code for kind, code in BLOCKS if kind == "sh" and not code.startswith((MAKE, INSTALL))]
FIRST, OTHERS = SHELL[0], [line for code in SHELL[1:] for line in code.splitlines()]
"""The first block, and the lines of the others, each of which stands alone."""


def run(command: list[str], place: Path) -> str:
    """What a command prints; ``fixpoint`` is the one of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_as_printed(code: str, place: Path) -> None:
    """Run lines of the README; what they say they have written is there."""
    said = run(["bash", "-euc", f"exec 2>&1\n{code}"], place)
    named = re.findall(r"(?:pictures of proof|Pictures|Report): (\S+)", said)
    assert len(named) >= 2, said
    for path in named:
        assert (place / path).exists(), f"{path} is not there"
        if path.endswith("/images"):
            assert {picture.name.partition(".")[0] for picture in (place / path).iterdir()} == {"china", "rocket"}
