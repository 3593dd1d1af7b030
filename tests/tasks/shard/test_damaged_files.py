"""Damaged files by the thousand, of all formats, through shards: one row a file, no shard left open."""

from __future__ import annotations

import random
import struct
from collections import Counter
from pathlib import Path

import pytest

from tasks.config import RunConfig
from tasks.photos.decode import Photo
from tasks.photos.encode import encode_photo
from tasks.photos.metadata import KINDS
from tasks.photos.sources import list_photos
from tasks.shard.process import process_shard, versions
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tests.chaos.check_output import check
from tests.tasks.photos import zoo
from tests.tasks.photos.test_image_zoo import mutated
from tests.tasks.photos.test_metadata import ELSEWHERE, FULL

SHARD = 50
NIGHT = (pytest.mark.chaos, pytest.mark.timeout(3600))
SUFFIXES = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "tiff": ".tif", "heic": ".heic", "avif": ".avif"}


def seeds() -> list[tuple[str, bytes]]:
    """(suffix, bytes) of whole photographs: every kind of the zoo, and every format with all its metadata."""
    full = [
        (SUFFIXES[kind], encode_photo(zoo.PICTURE, Photo(zoo.PICTURE, None, kind, metadata=FULL)).data)
        for kind in KINDS
        for _ in range(6)  # metadata is where damage is least foreseen
    ]
    elsewhere = [(f".{name.split()[0]}", data) for name, data in ELSEWHERE.items()]
    kinds = [(f".{case.name.split('-')[0]}", case.data) for case in zoo.all_cases() if case.pixels is not None]
    return [*full, *elsewhere, *((suffix if suffix != ".one" else ".png", data) for suffix, data in kinds)]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A file after an accident: small ones anywhere or in the header and metadata, cut off, zeros, other bytes behind."""
    kind = rng.randrange(8)
    if kind < 3:
        return mutated(data, rng)
    if kind < 5:  # the first kilobytes: markers, directories, lengths
        head = min(len(data), 3000)
        return mutated(data[:head], rng) + data[head:]
    if kind == 5:
        return data[: rng.randrange(len(data))]
    if kind == 6:
        start = rng.randrange(len(data))
        return data[:start] + bytes(min(rng.randrange(1, 5000), len(data) - start)) + data[start + 5000 :]
    place = rng.randrange(max(1, len(data) - 4))
    return data[:place] + struct.pack(">I", rng.choice([0, 1, 0xFFFF, 2**31, 2**32 - 1])) + data[place + 4 :]


def write_damaged(folder: Path, count: int, seed: int) -> list[str]:
    rng, found = random.Random(seed), seeds()
    folder.mkdir()
    keys = []
    for i in range(count):
        suffix, data = found[i % len(found)]
        keys.append(f"{i:05d}{suffix.replace('.jpeg', '.jpg').replace('.strip', '.png').replace('.four', '.png')}")
        (folder / keys[-1]).write_bytes(damaged(data, rng))
    return keys


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("count", "target"),
    [
        (150, "same"),
        pytest.param(2000, "same", marks=NIGHT),
        pytest.param(500, "jpeg", marks=NIGHT),
    ],
)
def test_every_damaged_file_has_one_row_and_no_shard_stays_open(tmp_path: Path, count: int, target: str) -> None:
    keys = write_damaged(tmp_path / "in", count, seed=19)
    output = str(tmp_path / "out")
    config = RunConfig(dehaze_variant="dcp", shard_size=SHARD, max_pixels=20_000_000, image_format=target)  # type: ignore[arg-type]
    ledger = Ledger(open_store(output))
    ledger.create_run(config.identity(), versions())
    ledger.plan_new(list_photos(str(tmp_path / "in")), SHARD)
    for shard in ledger.open_shards():
        process_shard(output, config, *shard)
    status = ledger.status()
    assert (status.open_shards, status.planned, status.committed) == (0, count, count)
    rows = [row for shard in ledger.committed() for row in ledger.read_shard(*shard).to_pylist()]
    assert sorted(row["key"] for row in rows) == sorted(keys)
    codes = Counter(row["error_code"] or "ok" for row in rows)
    print(f"\n{count} files, {status.shards} shards, {dict(codes.most_common())}")
    assert codes["ok"] > count // 10  # the accidents bite, and not everything dies of them
    assert status.failed > count // 10
    assert check(output) == []
