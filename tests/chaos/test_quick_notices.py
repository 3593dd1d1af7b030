"""``make quick`` is true to its name: with any part of the heart broken it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]
BREAKS = {
    "sampling forgets a sign": ("fpcore/inversion/sample.py", "(z - psi[i] * d)", "(z + psi[i] * d)"),
    "the schedule's ψ": ("fpcore/inversion/schedule.py", "self.noise_prev * self.phi", "self.noise_prev"),
    "the certified bound flatters": ("fpcore/inversion/criteria.py", "rate / (1 - rate) * residual", "0 * residual"),
    "the quality gate is open": ("fpcore/dehazing/quality_gate.py", "if evidence < MAYBE_HAZY:", "if False:"),
    "nothing is dehazed": ("fpcore/dehazing/restore.py", "beyond *= gain if", "beyond *= 1 if"),
    "the edit does not follow the source": (
        "fpcore/editing/prompt_to_prompt.py",
        "if any(self.crossing):",
        "if False:",
    ),
    "commits overwrite": ("tasks/store/backends.py", "os.link(temporary, path)", "temporary.replace(path)"),
    "done shards are done again": ("tasks/store/ledger.py", "if shard not in done]", "]"),
    "a flipped bit passes": ("tasks/store/verify.py", "yield from _check_shard(", "yield from () and _check_shard("),
    "metadata is lost": ("tasks/photos/encode.py", '"exif": metadata.exif, "icc_profile"', '"icc_profile"'),
    "an outage is permanent": ("tasks/store/retry.py", "return Kind.TRANSIENT\n", "return Kind.PERMANENT\n"),
}


def quick(tree: Path) -> subprocess.CompletedProcess[str]:
    """What ``make quick`` runs, until the first failure."""
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTEST_ADDOPTS": "--exitfirst"}
    line = subprocess.run(
        ["make", "--dry-run", "quick", f"PY={sys.executable}"], cwd=tree, capture_output=True, text=True
    )
    command = line.stdout.strip().splitlines()[-1]
    return subprocess.run(["bash", "-c", command], cwd=tree, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project that may be broken."""
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "demo", "__pycache__", ".*_cache")
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("copy") / "fixpoint", ignore=ignored))


def test_the_whole_copy_passes(tree: Path) -> None:
    done = quick(tree)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_heart_is_noticed(tree: Path, name: str) -> None:
    file, whole, broken = BREAKS[name]
    path = tree / file
    text = path.read_text()
    assert whole in text, f"{file} has changed: say anew how to break it"
    path.write_text(text.replace(whole, broken))
    try:
        done = quick(tree)
    finally:
        path.write_text(text)
    assert done.returncode in (1, 2), done.stdout[-3000:]  # 2: xdist was told to stop at the first
    assert " failed" in done.stdout
