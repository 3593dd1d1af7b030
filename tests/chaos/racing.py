"""Processes that race for one output: a server forks them, so that none pays for its imports.

The server reads one JSON line an order and answers with one: ``["start", job, kill_at, mutant]`` gives a process id,
``["poll", id]`` its exit code or null, ``["wait", id]`` its exit code; ``["pause", job, at, work]`` starts one that stops
before its n-th operation and gives its id, null if it ended before that.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.store.errors import StoreUnavailable
from tests.chaos import mutants, tiny_job
from tests.chaos.tiny_job import Job, Killer


def worker(job: Job, kill_at: int, mutant: str) -> None:
    """One process of a run; ``kill_at`` 0 means it may finish."""
    if kill_at:
        Killer(job.output, kill_at).arm()
    tiny_job.run(job, mutants.apply(mutant))


GAVE_UP = 3
"""Exit code of a worker whose retries were used up: a clean end, to be started again."""
REFUSED = 4
"""Exit code of a clean-up beside an open run."""


def fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except StoreUnavailable:
        code = GAVE_UP
    except ValueError as error:
        code = REFUSED
        if "finish" not in str(error):
            traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def start(job: dict[str, Any], kill_at: int, mutant: str) -> int:
    return fork(lambda: worker(Job(**job), kill_at, mutant))


def pause(job: dict[str, Any], at: int, work: str) -> int | None:
    """A process that stops before its n-th operation on storage."""

    def stopping() -> None:
        Killer(job["output"], at, signal.SIGSTOP).arm()
        WORK[work](Job(**job))

    child = fork(stopping)
    status = os.waitpid(child, os.WUNTRACED)[1]
    return child if os.WIFSTOPPED(status) else None


WORK = {
    "run": tiny_job.run, "gc": tiny_job.clean_up, "compact": tiny_job.compact_all,
    "gc that deletes at once": mutants.delete_at_once,
}  # fmt: skip


def reap(child: int, flags: int) -> int | None:
    done, status = os.waitpid(child, flags)
    return os.waitstatus_to_exitcode(status) if done else None


def serve() -> None:
    pa.set_cpu_count(1)
    tiny_job.run(Job("memory://warm", 2, 2))  # children inherit what the first use of pyarrow sets up
    orders = {
        "start": start,
        "pause": pause,
        "poll": lambda child: reap(child, os.WNOHANG),
        "wait": lambda child: reap(child, 0),
    }
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(orders[name](*arguments)), flush=True)


class Racers:
    """The forking server, from the side of a test."""

    def __enter__(self) -> Racers:
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()

    def _order(self, *order: Any) -> Any:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, job: Job, kill_at: int = 0, mutant: str = "") -> int:
        """Start a worker; its process id."""
        return self._order("start", asdict(job), kill_at, mutant)

    def pause(self, job: Job, at: int, work: str) -> int | None:
        """A process that stopped before its n-th operation; None if it ended before that."""
        return self._order("pause", asdict(job), at, work)

    def end(self, child: int, sign: int) -> int:
        """Send a signal to a process that has stopped; its exit code."""
        os.kill(child, sign)
        return self._order("wait", child)

    def poll(self, child: int) -> int | None:
        """Exit code of a worker that has ended; it can be asked once."""
        return self._order("poll", child)

    def race(self, job: Job, kills: list[int], mutant: str = "") -> list[int]:
        """Exit codes of workers that start together, each killed at its own operation."""
        children = [self.start(job, at, mutant) for at in kills]
        return [self._order("wait", child) for child in children]


if __name__ == "__main__":
    serve()
