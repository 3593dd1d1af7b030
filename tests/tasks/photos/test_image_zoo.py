"""Every kind of file a photo folder may hold: the right pixels or the right error, within bounds of time and memory."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import numpy as np
import pytest

from tasks.photos.decode import Photo, PhotoLimits, decode_photo
from tasks.photos.formats import CODES, PhotoError
from tests.tasks.photos import zoo

CASES = zoo.all_cases()
MUTATIONS = 2000


def test_the_zoo_is_large_and_meets_every_error_code() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.code for case in CASES} - {None} == set(CODES) - {"too-large"}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_zoo(case: zoo.Case) -> None:
    start = time.perf_counter()
    if case.code is None:
        check_pixels(decode_photo(case.data), case)
    else:
        with pytest.raises(PhotoError) as failed:
            decode_photo(case.data)
        assert failed.value.code == case.code
        assert len(str(failed.value)) > 20
    assert time.perf_counter() - start < 5


def check_pixels(photo: Photo, case: zoo.Case) -> None:
    assert case.pixels is not None
    assert (photo.pixels.dtype, photo.pixels.shape) == (case.pixels.dtype, case.pixels.shape)
    assert np.abs(photo.pixels.astype(float) - case.pixels).mean() <= case.tolerance
    assert (photo.alpha is None) == (case.alpha is None)
    if case.alpha is not None:
        np.testing.assert_array_equal(photo.alpha, case.alpha)
    assert photo.pixels.flags.c_contiguous


def test_limits_can_be_lowered_and_raised() -> None:
    with pytest.raises(PhotoError, match="Raise max_bytes") as too_large:
        decode_photo(zoo.PNG, PhotoLimits(max_bytes=100))
    assert too_large.value.code == "too-large"
    with pytest.raises(PhotoError, match="raise max_pixels") as too_many:
        decode_photo(zoo.PNG, PhotoLimits(max_pixels=60 * 80 - 1))
    assert too_many.value.code == "too-many-pixels"
    strip = next(case for case in CASES if case.name == "strip")
    assert decode_photo(strip.data, PhotoLimits(max_aspect=1e9)).size == (1, 65500)


BOMBS = """
import resource
from tasks.photos.formats import PhotoError
from tasks.photos.decode import decode_photo
from tests.tasks.photos.zoo import PNG, bombs
cases = bombs()
decode_photo(PNG)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for case in cases:
    try:
        decode_photo(case.data)
    except PhotoError:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.long
def test_bombs_take_no_memory_to_speak_of() -> None:
    """Ten files of a few kilobytes that claim 144 to 4,290 megapixels; only the blank one is unpacked."""
    done = subprocess.run([sys.executable, "-c", BOMBS], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 250  # MiB: 144 MP of blank grey, which is what it promised


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four small accidents: a flipped bit, bytes lost, repeated, overwritten, a changed header."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place, length, kind = rng.randrange(len(result)), rng.randrange(1, 64), rng.randrange(6)
        if kind == 0:
            result[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and len(result) > 100:
            del result[place : place + length]
        elif kind == 2:
            result[place:place] = rng.randbytes(length)
        elif kind == 3:
            result[place : place + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])
        elif kind == 4:
            other = rng.randrange(len(result))
            result[place : place + length] = result[other : other + length]
        else:
            result[min(place, 60)] = rng.randrange(256)
    return bytes(result)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mutated_files_give_a_photo_or_a_declared_error() -> None:
    rng = random.Random(11)
    seeds = [case.data for case in CASES if case.pixels is not None]
    outcomes = dict.fromkeys(("photo", *CODES), 0)
    slowest = 0.0
    for _ in range(MUTATIONS):
        data, start = mutated(rng.choice(seeds), rng), time.perf_counter()
        try:
            photo = decode_photo(data, PhotoLimits(max_pixels=50_000_000))
        except PhotoError as error:
            outcomes[error.code] += 1
        else:
            outcomes["photo"] += 1
            assert photo.pixels.ndim == 3
            assert photo.pixels.shape[2] == 3
        slowest = max(slowest, time.perf_counter() - start)
    assert slowest < 5
    assert min(outcomes["photo"], outcomes["damaged"], outcomes["truncated"]) > MUTATIONS // 50  # the accidents bite
