"""Processes that race for one output: a server forks them, so that none pays for its imports.

Reads one JSON line ``{"job": …, "kills": [n, m], "mutant": ""}`` a round, answers with a list of exit codes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from tests.chaos import mutants, tiny_job
from tests.chaos.tiny_job import Job, Killer


def worker(job: Job, kill_at: int, mutant: str) -> None:
    """One process of a run; ``kill_at`` 0 means it may finish."""
    if kill_at:
        Killer(job.output, kill_at).arm()
    tiny_job.run(job, mutants.apply(mutant))


def fork(job: Job, kill_at: int, mutant: str) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        worker(job, kill_at, mutant)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def serve() -> None:
    pa.set_cpu_count(1)
    tiny_job.run(Job("memory://warm", 2, 2))  # children inherit what the first use of pyarrow sets up
    for line in sys.stdin:
        order = json.loads(line)
        job = Job(**order["job"])
        children = [fork(job, at, order["mutant"]) for at in order["kills"]]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


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

    def race(self, job: Job, kills: list[int], mutant: str = "") -> list[int]:
        """Exit codes of workers that start together, each killed at its own operation."""
        self.process.stdin.write(json.dumps({"job": asdict(job), "kills": kills, "mutant": mutant}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


if __name__ == "__main__":
    serve()
