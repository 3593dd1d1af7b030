"""The fuzzer's short form, what it found before, and that its limits and its assertions bite."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.fuzz import run, targets
from tests.fuzz.corpus import CORPUS
from tests.fuzz.run import Tally, attempt, case, run_batch, seeds

KEPT = sorted((Path(__file__).parent / "found").iterdir())
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.long
def test_some_hundred_cases_find_nothing(tmp_path: Path) -> None:
    """Other ones every time; what is found is printed with its seed and number."""
    tally = Tally()
    run_batch(random.randrange(10**6), range(200), tally, tmp_path)
    assert tally.found == [], [path.read_text() for path in tmp_path.glob("*.txt")]
    assert set(tally.ended) == set(CORPUS)


@pytest.mark.long
@pytest.mark.parametrize("file", KEPT, ids=lambda path: path.name)
def test_what_was_found_once_stays_mended(file: Path) -> None:
    for number in range(10):
        assert attempt(file.name.split("-")[0], file.read_bytes(), random.Random(number))[0] == "ended"


@pytest.mark.long
def test_a_case_is_known_by_its_number() -> None:
    assert [case(7, number) for number in range(16)] == [case(7, number) for number in range(16)]
    assert case(7, 3) != case(8, 3)


@pytest.mark.long
@pytest.mark.parametrize("target", CORPUS)
def test_the_corpus_itself_is_fine(target: str) -> None:
    ended = {attempt(target, data, random.Random(number)) for number, data in enumerate(seeds(target))}
    assert {verdict for verdict, _ in ended} == {"ended"}


def hang(data: bytes, rng: random.Random) -> str:
    while True:
        pass


def sleep(data: bytes, rng: random.Random) -> str:
    time.sleep(60)
    return "woke up"


def grow(data: bytes, rng: random.Random) -> str:
    return str(len(bytearray(3 * 10**9)))


def raise_error(data: bytes, rng: random.Random) -> str:
    raise KeyError("nobody declared this")


@pytest.mark.long
@pytest.mark.parametrize(
    ("target", "wall", "reason"),
    [
        (hang, 60.0, "processor time"),
        (sleep, 1.0, "hangs"),
        (grow, 60.0, "MemoryError"),
        (raise_error, 60.0, "KeyError: 'nobody declared this' at test_fuzz.py"),
    ],
)
def test_limits_bite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: object, wall: float, reason: str) -> None:
    monkeypatch.setitem(targets.TARGETS, "url", target)
    monkeypatch.setattr(run, "CPU_SECONDS", 0.3)
    monkeypatch.setattr(run, "WALL_SECONDS", wall)
    tally, number = Tally(), 3  # an address's turn
    assert run_batch(1, range(number, number + 1), tally, tmp_path) == number + 1
    (found,) = tally.found
    assert found[:2] == (number, "url")
    assert reason in found[2]
    assert next(tmp_path.glob("url-3-*.bin")).read_bytes() == case(1, number)[1]
