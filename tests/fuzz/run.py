"""Runs cases in child processes, each under limits of time and memory, and keeps what breaks."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.corpus import CORPUS
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import ORDER, TARGETS

CPU_SECONDS = 10.0
WALL_SECONDS = 300.0
MEMORY = 1_500_000_000
"""Bytes that a case may allocate beyond what the process starts with."""
BATCH = 500
"""Cases of one child process."""


@dataclass
class Tally:
    """How cases ended, by target; and the findings: number, target, reason."""

    ended: dict[str, Counter[str]] = field(default_factory=dict)
    found: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, target: str, outcome: str) -> None:
        """A case has ended as it may."""
        self.ended.setdefault(target, Counter())[outcome] += 1

    @property
    def cases(self) -> int:
        """Cases that were tried."""
        return sum(sum(counts.values()) for counts in self.ended.values()) + len(self.found)


@functools.cache
def seeds(target: str) -> list[bytes]:
    """The corpus of a target."""
    return CORPUS[target]()


def case(seed: int, number: int) -> tuple[str, bytes]:
    """Target and bytes of a case: the same for the same seed and number."""
    target = ORDER[number % len(ORDER)]
    rng = random.Random(f"{seed}-{number}")
    return target, mutated(rng.choice(seeds(target)), seeds(target), rng)


def run_batch(seed: int, numbers: range, tally: Tally, folder: Path) -> int:
    """Try some cases in a child process; the number of the next case: after one that killed the child, or the last."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _limit_memory()
        _try_all(seed, numbers, writer)
    os.close(writer)
    number = numbers.start
    with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            number, target, verdict, outcome = _parsed(line)
            if verdict == "ended":
                tally.add(target, outcome)
            elif verdict == "broke":
                _keep(seed, number, outcome, tally, folder)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        died = signal.Signals(os.WTERMSIG(status))
        why = {signal.SIGPROF: f"more than {CPU_SECONDS:g} s of processor time", signal.SIGALRM: "hangs"}
        _keep(seed, number, why.get(died, died.name), tally, folder)
        return number + 1
    return numbers.stop


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)


def _try_all(seed: int, numbers: range, writer: int) -> None:
    """In the child: a line before each case and one after it; never returns."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders written in C complain there
    warnings.simplefilter("ignore")
    for kind in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(kind, signal.SIG_DFL)
    for number in numbers:
        target, data = case(seed, number)
        os.write(writer, f"{number}\t{target}\tbegun\t-\n".encode())
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        verdict, outcome = attempt(target, data, random.Random(number))
        os.write(writer, f"{number}\t{target}\t{verdict}\t{outcome}\n".encode(errors="replace"))
    os._exit(0)


def attempt(target: str, data: bytes, rng: random.Random) -> tuple[str, str]:
    """How a case ended, or how it broke: the last lines of the traceback, on one line."""
    try:
        return "ended", TARGETS[target](data, rng)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-4:]
        places = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(where))
        return "broke", " ".join(f"{type(error).__name__}: {str(error)[:300]} at {places}".split())


def _parsed(line: str) -> tuple[int, str, str, str]:
    number, target, verdict, outcome = line.rstrip("\n").split("\t", 3)
    return int(number), target, verdict, outcome


def _keep(seed: int, number: int, why: str, tally: Tally, folder: Path) -> None:
    target, data = case(seed, number)
    tally.found.append((number, target, why))
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{target}-{number}-{hashlib.sha256(data).hexdigest()[:8]}"
    (folder / f"{name}.bin").write_bytes(data)
    (folder / f"{name}.txt").write_text(f"seed {seed}, case {number}: {why}\n")
    print(f"FOUND {target} seed {seed} case {number}: {why}", flush=True)


def fuzz(seconds: float, seed: int, folder: Path) -> Tally:
    """Try cases for so many seconds."""
    for target in CORPUS:
        seeds(target)
    tally, number, told, end = Tally(), 0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        number = run_batch(seed, range(number, number + BATCH), tally, folder)
        if tally.cases >= told:
            print(f"{tally.cases:,} cases, {len(tally.found)} found", flush=True)
            told = tally.cases + 10_000
    return tally


def main() -> None:
    """Command line: minutes, and a seed."""
    minutes, seed = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    tally = fuzz(60 * minutes, seed, Path("build/fuzz"))
    for target, counts in sorted(tally.ended.items()):
        print(f"{target}: {sum(counts.values()):,} cases; {dict(counts.most_common(40))}")
    print(f"{tally.cases:,} cases of seed {seed} in {minutes:g} min, {len(tally.found)} found")
    sys.exit(1 if tally.found else 0)


if __name__ == "__main__":
    main()
