"""``compact`` and then ``gc --compacted --delete``: SIGKILL before the n-th file operation, judged from outside each time.

Also beside a run of another process that goes on with its night meanwhile.
"""

from __future__ import annotations

import itertools
import shutil
import signal
from pathlib import Path

import pytest

from tests.chaos import tiny_job
from tests.chaos.check_output import check
from tests.chaos.racing import Racers
from tests.chaos.tiny_job import Job

pytestmark = pytest.mark.server

DONE, PHOTOS, SHARD_SIZE = 5, 8, 1


@pytest.fixture
def before(folder: Path) -> Path:
    """A finished run."""
    tiny_job.run(Job(str(folder / "before"), DONE, SHARD_SIZE))
    return folder / "before"


def kill_at_each(folder: Path, before: Path, every: int) -> int:
    """Kill at every n-th operation; then a run plans more photos, and a compaction ends what was begun. How many kills."""
    kills = 0
    with Racers() as racers:
        for at in itertools.count(1, every):
            output = folder / str(at)
            shutil.copytree(before, output)
            job = Job(str(output), PHOTOS, SHARD_SIZE)
            child = racers.pause(job, at, "compact")
            if child is None:
                return kills
            assert check(str(output), expected_keys=tiny_job.keys(DONE)) == [], at
            racers.race(job, [0])  # a night while the compaction stands still
            assert check(str(output), expected_keys=tiny_job.keys(PHOTOS)) == [], at
            kills += racers.end(child, signal.SIGKILL) == -signal.SIGKILL
            tiny_job.compact_all(job)
            assert check(str(output), expected_keys=tiny_job.keys(PHOTOS)) == [], at
            assert list((output / "shards").glob("*.parquet")) == [], at
            shutil.rmtree(output)
    raise AssertionError


@pytest.mark.long
def test_a_compaction_killed_at_some_operations_leaves_every_row_once(folder: Path, before: Path) -> None:
    assert kill_at_each(folder, before, 7) >= 8


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_a_compaction_killed_at_every_operation_leaves_every_row_once(folder: Path, before: Path) -> None:
    kills = kill_at_each(folder, before, 1)
    print(f"\n{kills} kills, 0 violations")
    assert kills >= 60
