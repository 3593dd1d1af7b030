"""``gc --delete`` beside a starting run: each stopped before its n-th operation on storage, while the other does all.

The one that stopped is then killed (SIGKILL) or goes on. Some leftovers are, bit by bit, the pictures that the run is to
make, so that it takes them over.
"""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tests.chaos import tiny_job
from tests.chaos.check_output import check
from tests.chaos.racing import Racers
from tests.chaos.tiny_job import QUICK, Job

pytestmark = pytest.mark.server

DONE, PHOTOS, SHARD_SIZE = 2, 5, 3
NEVER = 10_000
ENDS = (signal.SIGKILL, signal.SIGCONT)


@pytest.fixture
def before(folder: Path) -> Path:
    """A finished run, and leftovers: the pictures of photos that are new to the next run, and a temporary file."""
    output = folder / "before"
    tiny_job.run(Job(str(output), DONE, SHARD_SIZE))
    ledger = Ledger(open_store(str(output), QUICK))
    for key in tiny_job.keys(PHOTOS)[DONE:]:
        ledger.pictures.put(1, key, tiny_job.picture(key, "killed"), ".jpg")
    (output / "images" / ".tmp-killed").write_bytes(b"half")
    return output


def rounds(
    folder: Path, before: Path, paused: str, beside: str, ends: Sequence[signal.Signals] = ENDS
) -> Iterator[list[str]]:
    """What the checks find after each round, until ``paused`` is done before it stops."""
    with Racers() as racers:
        for at, end in ((n, end) for n in itertools.count(1) for end in ends):
            output = folder / f"{at} {end.name}"
            shutil.copytree(before, output)
            job = Job(str(output), PHOTOS, SHARD_SIZE)
            if (child := racers.pause(job, at, paused)) is None:
                return
            racers.pause(job, NEVER, beside)
            racers.end(child, end)
            for work in ("run", "gc"):
                racers.pause(job, NEVER, work)
            yield check(str(output), expected_keys=tiny_job.keys(PHOTOS))
            shutil.rmtree(output)


def test_clean_up_that_is_killed_beside_a_run_loses_no_picture(folder: Path, before: Path) -> None:
    found = list(rounds(folder, before, "gc", "run", [signal.SIGKILL]))
    assert not any(found)
    assert len(found) > 20


@pytest.mark.chaos
@pytest.mark.parametrize(("paused", "beside"), [("gc", "run"), ("run", "gc"), ("gc", "gc")])
def test_clean_up_and_runs_that_stop_anywhere(folder: Path, before: Path, paused: str, beside: str) -> None:
    found = list(rounds(folder, before, paused, beside))
    print(f"\n{paused} stopped beside {beside}: {len(found)} rounds, {sum(map(bool, found))} with violations")
    assert not any(found)
    assert len(found) > 40


@pytest.mark.chaos
def test_clean_up_that_gives_no_names_up_is_found_out(folder: Path, before: Path) -> None:
    assert any(rounds(folder, before, "gc that deletes at once", "run"))
