"""A disk that fills up: a clean error, nothing half-written, and the same run finishes once there is room."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.store.errors import StoreFull
from tests.chaos import tiny_job
from tests.chaos.check_output import check
from tests.chaos.claims import contradictions
from tests.chaos.tiny_job import Job

pytestmark = pytest.mark.server


def assert_finishes(job: Job) -> None:
    tiny_job.run(job)
    assert check(job.output, expected_keys=tiny_job.keys(job.photos)) == []
    assert contradictions(job) == []


def test_the_disk_is_full_at_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space at the n-th flush of a file, for every n, until a run no longer meets it."""
    flush = os.fsync
    for n in range(1, 200):
        job, left = Job(str(tmp_path / str(n)), 6, 3, str(tmp_path / f"{n}.log")), iter(range(n - 1))

        def full(descriptor: int, left=left) -> None:
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, "No space left on device")
            flush(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        try:
            tiny_job.run(job)
        except StoreFull:
            pass
        else:
            break
        finally:
            monkeypatch.setattr(os, "fsync", flush)
        assert check(job.output, partial=True) == []
        assert not list(Path(job.output).rglob(".tmp-*"))
        assert_finishes(job)
    print(f"\nfull at each of {n - 1} writes, 0 violations")
    assert n > 10


ON_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size=64k tmpfs "$1"
head -c 30000 /dev/zero > "$1/filler"
"$2" -m tests.chaos.tiny_job "$1/out" 40 4 "$3" 2> "$3.error" && exit 9
"$2" tests/chaos/check_output.py "$1/out" --partial
test -z "$(find "$1" -name '.tmp-*')"
rm "$1/filler"
mount -o remount,size=8m "$1"
"$2" -m tests.chaos.tiny_job "$1/out" 40 4 "$3"
"$2" tests/chaos/check_output.py "$1/out"
"""


def can_mount() -> bool:
    unshare = shutil.which("unshare")
    command = [str(unshare), "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return unshare is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="this system does not let users mount a small disk")
def test_a_real_disk_that_is_too_small(tmp_path: Path) -> None:
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.mkdir()
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", ON_A_SMALL_DISK, "-"]
    result = subprocess.run(
        [*unshare, str(disk), sys.executable, str(log)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "StoreFull" in Path(f"{log}.error").read_text()
    assert result.stdout.count("complete, exclusive, once, immutable, verifiable") == 2
