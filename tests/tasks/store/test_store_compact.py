"""Compaction: rows are read exactly once wherever it breaks off, whoever reads or races, and nothing is lost to it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.store import compacted, errors, parquet
from tasks.store.compact import CompactSummary, compact, originals, remove_originals, with_raw_latents
from tasks.store.ledger import Ledger, ShardId
from tasks.store.names import compacted_key
from tasks.store.objects import Store, open_store
from tasks.store.schema import shard_schema
from tasks.store.verify import gc, verify
from tests.chaos import tiny_job
from tests.chaos.check_output import check
from tests.chaos.tiny_job import Job, entries

PHOTOS, SHARDS = 8, 4


def opened(output: Path | str) -> Ledger:
    return Ledger(open_store(str(output), tiny_job.QUICK))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A finished run of 8 photos in shards of 2."""
    tiny_job.run(Job(str(tmp_path / "out"), PHOTOS, 2))
    return tmp_path / "out"


def removed(output: Path) -> int:
    """Remove the originals; how many there were."""
    ledger = opened(output)
    shards = originals(ledger)
    remove_originals(ledger, shards)
    return len(shards)


def rows_of(ledger: Ledger) -> list[dict[str, Any]]:
    """Every committed row, as the readers of a ledger get at them."""
    return [row for shard in ledger.committed() for row in ledger.read_shard(*shard).to_pylist()]


def whole(output: Path) -> list[str]:
    """What is wrong with the output, by its own verify and by the independent judge."""
    return [problem.message for problem in verify(opened(output))] + check(
        str(output), expected_keys=tiny_job.keys(PHOTOS)
    )


class Killed(BaseException):
    """The process ends here."""


class Mortal:
    """A backend before whose n-th operation the process dies."""

    def __init__(self, backend: Any, left: int) -> None:
        self.backend, self.left = backend, left

    def __getattr__(self, verb: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return getattr(self.backend, verb)(*args, **kwargs)

        return call


def mortal(output: Path | str, operations: int) -> Ledger:
    store = open_store(str(output), tiny_job.QUICK)
    return Ledger(Store(store.location, Mortal(store._backend, operations), tiny_job.QUICK))  # type: ignore[arg-type]


# what it does


@pytest.mark.long
def test_the_rows_of_commits_are_in_few_files_and_say_the_same(output: Path) -> None:
    before, status = rows_of(opened(output)), opened(output).status()
    footers = {shard: opened(output).shard_footer(*shard) for shard in opened(output).committed()}
    assert compact(opened(output), least=1, most=3) == CompactSummary(files=2, commits=SHARDS, rows=PHOTOS, left=0)
    for objects in (SHARDS, 0):
        ledger = opened(output)
        assert len(list((output / "shards").iterdir())) == objects
        assert rows_of(ledger) == before
        assert {shard: ledger.shard_footer(*shard) for shard in ledger.committed()} == footers
        assert ledger.status() == status
        assert ledger.open_shards() == []
        assert whole(output) == []
        assert gc(opened(output)) == []
        removed(output)
    assert compact(opened(output), least=1) == CompactSummary(0, 0, 0, 0)


@pytest.mark.long
def test_few_commits_wait_and_large_ones_stay(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compact(opened(output), least=SHARDS + 1) == CompactSummary(0, 0, 0, left=SHARDS)
    assert not (output / "compacted").exists()
    monkeypatch.setattr("tasks.store.compact.SMALL", 100)
    assert compact(opened(output), least=1) == CompactSummary(0, 0, 0, 0)
    monkeypatch.undo()
    monkeypatch.setattr("tasks.store.compact.MOST_BYTES", 50_000)
    done = compact(opened(output), least=1)
    assert done.files > 1
    assert done.commits == SHARDS


@pytest.mark.long
def test_what_comes_later_goes_into_the_next_file(output: Path) -> None:
    compact(opened(output), least=1)
    assert removed(output) == SHARDS
    tiny_job.run(Job(str(output), 11, 2))
    assert compact(opened(output), least=1).commits == 2
    assert [path.name for path in sorted((output / "compacted").iterdir())] == ["000001.parquet", "000002.parquet"]
    assert check(str(output), expected_keys=tiny_job.keys(11)) == []
    assert opened(output).status().ok == 10


@pytest.mark.long
def test_an_open_shard_is_left_to_its_run(output: Path) -> None:
    (output / "shards" / "000001-00003.parquet").unlink()
    compact(opened(output), least=1)
    removed(output)
    assert opened(output).open_shards() == [ShardId(1, 3)]
    tiny_job.run(Job(str(output), PHOTOS, 2))
    assert compact(opened(output), least=1).commits == 1
    removed(output)
    assert whole(output) == []


@pytest.mark.long
def test_nights_after_a_compaction_plan_only_what_is_new_with_and_without_a_checkpoint(output: Path) -> None:
    compact(opened(output), least=1)
    removed(output)
    for _ in range(2):
        assert opened(output).plan_new(entries(PHOTOS), 2) == []
        assert opened(output).open_shards() == []
        opened(output).checkpoint(always=True)
    assert whole(output) == []


def test_an_output_in_which_no_run_has_begun_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        compact(opened(tmp_path))


@pytest.mark.long
def test_latents_of_several_shapes_become_bytes_and_measures_that_are_no_numbers_compare(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "latents")
    ledger.create_run({})
    ledger.plan_new(entries(6), 2)
    shapes = {0: (1, 2, 2), 1: (1, 2, 3), 2: (1, 2, 2)}
    for number, shape in shapes.items():
        planned = ledger.read_plan_shard(1, number).select(["shard", "row", "key"]).to_pylist()
        halves = np.arange(math.prod(shape), dtype=np.float16) + number
        nan = {"metrics": [("psnr_input", math.nan)], "plan": 1}
        good = {**planned[0], **nan, "status": "ok", "latent": halves.tolist(), "latent_shape": list(shape)}
        bad = {**planned[1], **nan, "status": "failed", "error_code": "truncated"}
        ledger.commit_shard(1, number, pa.Table.from_pylist([good, bad], schema=shard_schema(shape)), {})
    compact(opened(tmp_path / "latents"), least=1)
    assert [problem.message for problem in verify(opened(tmp_path / "latents"))] == []
    assert removed(tmp_path / "latents") == 3
    for number, shape in shapes.items():
        first, second = opened(tmp_path / "latents").read_shard(1, number)["latent"].to_pylist()
        assert second is None
        assert np.frombuffer(first, np.float16).tolist() == [float(i) + number for i in range(math.prod(shape))]
    raw = with_raw_latents(ledger.compacted.read(ledger.compacted.look()[ShardId(1, 1)]))
    assert raw.schema.field("latent").type == pa.binary()


# killed, raced, read meanwhile


@pytest.mark.long
def test_killed_before_any_operation_every_row_is_read_once_and_the_next_call_ends_it(output: Path) -> None:
    before, operations = rows_of(opened(output)), 0
    while True:
        ledger = mortal(output, operations)
        try:
            compact(ledger, least=1, most=2)
            remove_originals(ledger, originals(ledger))
            break
        except Killed:
            assert rows_of(opened(output)) == before, operations
            assert opened(output).open_shards() == [], operations
        operations += 1
    assert operations > 10
    assert originals(opened(output)) == []
    assert whole(output) == []


@pytest.mark.long
def test_of_compactions_that_race_each_commit_is_in_one_file(output: Path) -> None:
    before, start = rows_of(opened(output)), threading.Barrier(4)
    done: list[CompactSummary] = []

    def race(most: int) -> None:
        start.wait()
        done.append(compact(opened(output), least=1, most=most))

    racers = [threading.Thread(target=race, args=(most,)) for most in (1, 2, 2, 3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(done) == 4
    assert sum(one.commits for one in done) == SHARDS
    assert rows_of(opened(output)) == before
    assert whole(output) == []


def test_readers_that_have_looked_before_go_on_while_objects_are_removed(output: Path) -> None:
    reader, polling = opened(output), opened(output)
    before, shards = rows_of(reader), reader.committed()
    compact(opened(output), least=1)
    assert removed(output) == SHARDS
    assert [row for shard in shards for row in reader.read_shard(*shard).to_pylist()] == before
    assert polling.is_committed(shards[0])
    assert opened(output).committed_among(shards[:2]) == set(shards[:2])
    assert opened(output).committed_among(shards) == set(shards)
    assert opened(output).next_committed(shards) == set(shards)
    assert opened(output).facts(shards[0]).totals.rows == 2


@pytest.mark.long
def test_a_reader_all_the_while_sees_every_row_once(output: Path) -> None:
    expected, seen, ended = rows_of(opened(output)), list[bool](), threading.Event()

    def read() -> None:
        while not ended.is_set() or len(seen) < 3:
            seen.append(rows_of(opened(output)) == expected)

    reader = threading.Thread(target=read)
    reader.start()
    compact(opened(output), least=1, most=2)
    removed(output)
    ended.set()
    reader.join()
    assert all(seen)


def test_an_attempt_long_out_of_date_commits_nothing_after_its_object_was_removed(output: Path) -> None:
    late, shard = opened(output), ShardId(1, 2)
    rows = late.read_shard(*shard)
    standing = late.shard_footer(*shard)["attempt_id"]
    compact(opened(output), least=1)
    removed(output)
    outcome = late.commit_shard(*shard, rows, {})
    assert (outcome.won, outcome.attempt_id, outcome.facts.totals.rows) == (False, standing, 2)
    assert not (output / shard.key).exists()


def test_one_that_is_killed_after_its_late_commit_counts_for_nothing_and_is_cleared_away(output: Path) -> None:
    before, shard = rows_of(opened(output)), ShardId(1, 2)
    rows = opened(output).read_shard(*shard)
    compact(opened(output), least=1)
    removed(output)
    late = mortal(output, 2)  # reads the plan, creates the object
    with pytest.raises(Killed):
        late.commit_shard(*shard, rows, {})
    assert (output / shard.key).exists()
    assert rows_of(opened(output)) == before
    assert ["gc --compacted" in problem.message for problem in verify(opened(output))] == [True]
    assert removed(output) == 1
    assert whole(output) == []


def test_our_own_commit_that_was_compacted_at_once_is_ours(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (output / "shards" / "000001-00002.parquet").unlink()
    ledger, look = opened(output), compacted.CompactedFiles.look
    rows = tiny_job.rows(ledger, ShardId(1, 2))

    def look_late(files: compacted.CompactedFiles, unreadable: dict[str, str] | None = None) -> Any:
        monkeypatch.setattr(compacted.CompactedFiles, "look", look)
        compact(opened(output), least=1)
        removed(output)
        return look(files, unreadable)

    monkeypatch.setattr(compacted.CompactedFiles, "look", look_late)
    assert ledger.commit_shard(1, 2, rows, {}).won
    assert whole(output) == []


# damage


def damaged(output: Path) -> Iterator[None]:
    """A compacted file with each of some bits flipped, cut short, and gone."""
    path = output / compacted_key(1)
    data = path.read_bytes()
    for at in (10, len(data) // 3, len(data) // 2, len(data) - 300, len(data) - 6):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        yield
    path.write_bytes(data[: len(data) // 2])
    yield
    path.unlink()
    yield
    path.write_bytes(data)


@pytest.mark.long
def test_a_damaged_file_is_named_and_nothing_is_removed_or_done_again(output: Path) -> None:
    compact(opened(output), least=1, most=2)
    for _ in damaged(output):
        assert [problem.key for problem in verify(opened(output))] != []
        with pytest.raises((errors.Corrupt, ValueError, KeyError)):
            remove_originals(opened(output), [ShardId(1, 0)])
        assert len(list((output / "shards").iterdir())) == SHARDS
    assert removed(output) == SHARDS
    for _ in damaged(output):
        assert [problem.key for problem in verify(opened(output))] != []
        with pytest.raises(errors.Corrupt):
            rows_of(opened(output))
    assert whole(output) == []


def test_a_missing_file_is_named_by_status_and_refused_by_a_run(output: Path) -> None:
    compact(opened(output), least=1, most=2)
    removed(output)
    (output / compacted_key(1)).unlink()
    unreadable: dict[str, str] = {}
    assert opened(output).status(unreadable).open_shards == 2
    assert list(unreadable) == [compacted_key(1)]
    with pytest.raises(errors.Corrupt, match="missing"):
        tiny_job.run(Job(str(output), PHOTOS + 1, 2))


def test_objects_whose_rows_differ_are_kept(output: Path) -> None:
    compact(opened(output), least=1)
    ledger, shard = opened(output), ShardId(1, 1)
    rows, footer = ledger.read_own(shard), ledger.shard_footer(*shard)
    other = rows.set_column(rows.schema.get_field_index("nfe"), rows.schema.field("nfe"), pa.array([7, 7], pa.int32()))
    (output / shard.key).write_bytes(parquet.encode(other, footer))
    assert [problem.key for problem in verify(opened(output))] == [shard.key]
    with pytest.raises(ValueError, match="other rows"):
        removed(output)
    assert (output / shard.key).exists()


def test_a_file_that_nobody_wrote_so_is_refused(output: Path) -> None:
    compact(opened(output), least=1)
    path = output / compacted_key(1)
    data = path.read_bytes()
    table = parquet.decode(data, path.name, shard_schema())
    footer = parquet.read_footer(data, path.name)
    for commits in (None, [[1]], [[1, 0, 0, -1, 2, "", {}]], [["x", 0, 0, 0, 2, "", {}]], 5):
        path.write_bytes(parquet.encode(table, {**footer, "commits": commits}))
        with pytest.raises(errors.Corrupt):
            rows_of(opened(output))
    for place in ([9, 0, 2], [0, 7, 2]):  # a row group and rows that are not there
        path.write_bytes(parquet.encode(table, {**footer, "commits": [[1, 0, *place, "", {}]]}))
        ledger = opened(output)
        assert ledger.committed()
        with pytest.raises(errors.Corrupt):
            ledger.read_shard(1, 0)
    path.write_bytes(data)
    (output / compacted_key(2)).write_bytes(data)
    with pytest.raises(errors.Corrupt, match="a file before it"):
        rows_of(opened(output))
