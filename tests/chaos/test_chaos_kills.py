"""SIGKILL at the n-th operation on storage, for every third n (at night for every n), with two workers racing."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.chaos import tiny_job
from tests.chaos.check_output import check
from tests.chaos.claims import contradictions
from tests.chaos.racing import Racers
from tests.chaos.tiny_job import Job

pytestmark = pytest.mark.server

PHOTOS, SHARD_SIZE = 12, 2


@dataclass
class Tally:
    """What a series of rounds saw."""

    kills: int = 0
    rounds: int = 0
    shards: int = 0
    leftovers: int = 0
    crashes: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        found = f"{len(self.violations)} violations {self.violations[:2]}, {len(self.crashes)} crashes"
        return f"{self.kills} kills in {self.rounds} rounds, {self.shards} shards, {self.leftovers} leftovers, {found}"


def series(folder: Path, steps: Iterable[int], mutant: str = "") -> Tally:
    """For each n: two rounds with kills at and near n, then an undisturbed one; checked after each."""
    tally = Tally()
    with Racers() as racers:
        for n in steps:
            job = Job(str(folder / str(n)), PHOTOS, SHARD_SIZE, str(folder / f"{n}.log"))
            seen: dict[str, str] = {}
            for kills in ([n, n], [n, n + 7], [0, 0]):
                codes = racers.race(job, kills, mutant)
                tally.kills += codes.count(-signal.SIGKILL)
                tally.crashes += [f"{code} at {kills}" for code in codes if code not in {0, -signal.SIGKILL}]
                tally.rounds += 1
                keys = tiny_job.keys(PHOTOS) if kills == [0, 0] else None
                tally.violations += check(job.output, partial=not keys, seen=seen, expected_keys=keys)
                tally.violations += contradictions(job)
            tally.shards += PHOTOS // SHARD_SIZE
            tally.leftovers += sum(path.name.startswith(".tmp-") for path in Path(job.output).rglob("*"))
            shutil.rmtree(job.output)
    return tally


def test_kills_leave_nothing_broken(folder: Path) -> None:
    tally = series(folder, range(1, 91, 3))
    print(f"\n{tally}")
    assert tally.violations == []
    assert tally.crashes == []
    assert tally.kills >= 100
    assert tally.leftovers > 0  # the kills did hit writes


@pytest.mark.parametrize("mutant", ["commit_first", "overwrite", "write_in_place"])
def test_a_wrong_protocol_is_found_out(folder: Path, mutant: str) -> None:
    """At some operation of a run: the harm of some mutants is done by a kill between two certain ones only."""
    tally = Tally()
    for n in range(10, 100):
        tally = series(folder, [n], mutant)
        if tally.violations:
            break
    print(f"\n{mutant}, at {n}: {tally}")
    assert tally.violations


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_kills_at_every_operation(folder: Path) -> None:
    """Up to an n at which no kill lands any more: every operation of a whole run."""
    tally = series(folder, range(1, 221))
    print(f"\n{tally}")
    assert tally.violations == []
    assert tally.crashes == []
