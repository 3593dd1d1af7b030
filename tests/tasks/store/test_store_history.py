"""Attempts, checkpoints and totals: what became of every photo, read anew or from where the last run left off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.store import ledger as ledger_module
from tasks.store.error_codes import RETRYABLE, ErrorCode, RetryRule
from tasks.store.ledger import Ledger, ShardId
from tasks.store.objects import Store, open_store
from tasks.store.schema import shard_schema
from tasks.store.verify import gc, verify
from tests.chaos.tiny_job import QUICK, entries


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(open_store(str(tmp_path / "out"), QUICK))
    made.create_run({"steps": 3})
    return made


def again(ledger: Ledger) -> Ledger:
    """The same output, opened by another process."""
    return Ledger(ledger.store)


def commit(ledger: Ledger, shard: ShardId, failing: dict[str, str] | None = None, **columns: Any) -> None:
    """Commit a shard whose photos are fine, but for those in ``failing``: key to error code."""
    failing = failing or {}
    rows = [
        {
            **{name: row[name] for name in ("shard", "row", "key", "attempt")},
            "plan": shard.plan,
            "source_size": row["size"],
            "source_etag": row["etag"],
            "status": "failed" if row["key"] in failing else "ok",
            "error_code": failing.get(row["key"]),
            "verdict": None if row["key"] in failing else "improved",
            "nfe": 10,
            "timings": {"read": 0.5, "invert": 1.0},
            **columns,
        }
        for row in ledger.read_plan_shard(*shard).to_pylist()
    ]
    ledger.commit_shard(*shard, pa.Table.from_pylist(rows, schema=shard_schema()), {"run_id": "night"})


def night(ledger: Ledger, photos: list[dict[str, Any]], failing: dict[str, str] | None = None) -> list[int]:
    """One run: plan what is new or to be tried again, commit it all."""
    added = ledger.plan_new(photos, 4)
    for shard in ledger.open_shards():
        commit(ledger, shard, failing)
    return added


def test_a_retryable_failure_is_planned_again_up_to_a_limit_and_its_rows_are_numbered(ledger: Ledger) -> None:
    photos, bad = entries(6), {entries(6)[2]["key"]: "unreadable"}
    assert [night(again(ledger), photos, bad) for _ in range(4)] == [[1], [2], [3], []]
    assert [ledger.read_plan(n)["attempt"].to_pylist() for n in (1, 2, 3)] == [[1] * 6, [2], [3]]
    status = again(ledger).status()
    assert (status.photos, status.ok, status.failed, status.planned, status.committed) == (6, 5, 1, 8, 8)


def test_a_final_failure_is_not_planned_again_unless_asked(ledger: Ledger) -> None:
    photos, bad = entries(6), {entries(6)[2]["key"]: "truncated", entries(6)[5]["key"]: "video"}
    night(ledger, photos, bad)
    assert again(ledger).plan_new(photos, 4) == []
    assert again(ledger).plan_new(photos, 4, retry=RetryRule({"truncated"}, 9)) == [2]
    assert ledger.read_plan(2).select(["key", "attempt"]).to_pylist() == [{"key": photos[2]["key"], "attempt": 2}]


def test_a_repaired_photo_counts_as_failed_no_longer(ledger: Ledger) -> None:
    photos, bad = entries(6), {entries(6)[2]["key"]: "truncated"}
    night(ledger, photos, bad)
    assert again(ledger).status().failed == 1
    mended = [{**photo, "etag": "mended"} if photo["key"] in bad else photo for photo in photos]
    assert night(ledger, mended) == [2]
    status = again(ledger).status()
    assert (status.photos, status.ok, status.failed) == (6, 6, 0)


def test_failed_photos_are_planned_again_without_a_listing(ledger: Ledger) -> None:
    bad = {entries(6)[2]["key"]: "truncated", entries(6)[5]["key"]: "unreadable"}
    night(ledger, entries(6), bad)
    assert ledger.plan_retries(RetryRule({"unreadable"}, 9), 4) == [2]
    assert ledger.read_plan(2)["key"].to_pylist() == [entries(6)[5]["key"]]
    assert ledger.plan_retries(RetryRule({"unreadable"}, 9), 4) == []  # planned already, not committed yet
    assert ledger.plan_retries(RetryRule(None, 9), 4) == [3]
    for shard in ledger.open_shards():
        commit(ledger, shard)
    assert (ledger.status().ok, ledger.status().failed) == (6, 0)
    assert list(verify(ledger)) == []


def test_a_photo_listed_twice_that_fails_once_is_tried_again_once(ledger: Ledger) -> None:
    twice = entries(1) * 2
    ledger.plan_new(twice, 1)
    commit(ledger, ShardId(1, 0))
    commit(ledger, ShardId(1, 1), {twice[0]["key"]: "unreadable"})
    assert night(again(ledger), twice) == [2]
    assert ledger.read_plan(2)["attempt"].to_pylist() == [2]
    assert again(ledger).plan_new(twice, 1) == []


def test_a_photo_replaced_between_plan_and_work_is_done_once(ledger: Ledger) -> None:
    ledger.plan_new(entries(2), 4)
    commit(ledger, ShardId(1, 0), source_etag="newer", source_size=77)
    listed = [{**entry, "etag": "newer", "size": 77} for entry in entries(2)]
    assert again(ledger).plan_new(listed, 4) == []
    assert again(ledger).plan_new([{**listed[0], "etag": "newest"}], 4) == [2]
    assert again(ledger).status().photos == 2


def test_racing_planners_try_a_failed_photo_again_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = entries(6)
    night(ledger, photos, {photos[2]["key"]: "unreadable"})
    rival, add_plan = again(ledger), Ledger.add_plan

    def late(self: Ledger, rows: pa.Table, number: int) -> bool:
        monkeypatch.setattr(Ledger, "add_plan", add_plan)
        rival.plan_new(entries(8), 4)
        return add_plan(self, rows, number)

    monkeypatch.setattr(Ledger, "add_plan", late)
    assert again(ledger).plan_new(entries(9), 4) == [3]
    keys = [(row["key"], row["attempt"]) for n in (2, 3) for row in ledger.read_plan(n).to_pylist()]
    assert sorted(keys) == sorted([(photos[2]["key"], 2), *((entries(9)[n]["key"], 1) for n in (6, 7, 8))])


# checkpoints


@pytest.fixture
def long(ledger: Ledger) -> Ledger:
    """Twelve nights of three new photos each, with failures that are tried again and a photo that changes."""
    for number in range(1, 13):
        photos = entries(3 * number)
        if number > 5:
            photos[4] = {**photos[4], "etag": "changed"}
        night(ledger, photos, {photos[-1]["key"]: "unreadable", photos[-2]["key"]: "damaged"})
    return ledger


def same(one: ledger_module.History, other: ledger_module.History) -> bool:
    return one.footer() == other.footer() and one.table().equals(other.table())


@pytest.mark.long
def test_a_checkpoint_says_what_plans_and_commits_say(long: Ledger) -> None:
    before = again(long).history()
    assert again(long).checkpoint(always=True)
    fresh = again(long)
    assert same(fresh.history(), before)
    assert same(fresh.history(), fresh.history(anew=True))
    assert list(verify(fresh)) == []
    night(fresh, [*entries(36), *entries(40)[36:]])
    assert same(again(long).history(), again(long).history(anew=True))


def test_after_a_checkpoint_no_earlier_plan_or_commit_is_read(long: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    long.checkpoint(always=True)
    asked = list[str]()
    get, tail, list_ = Store.get, Store.get_tail, Store.list
    monkeypatch.setattr(Store, "get", lambda self, key: asked.append(key) or get(self, key))
    monkeypatch.setattr(Store, "get_tail", lambda self, key, size: asked.append(key) or tail(self, key, size))
    monkeypatch.setattr(Store, "list", lambda self, prefix="": asked.append(prefix) or list_(self, prefix))
    fresh = again(long)
    fresh.plan_new([], 4)
    fresh.open_shards()
    fresh.status()
    assert {key.split("/")[0] for key in asked} == {"plans", "checkpoints"}
    assert len(asked) == 3 + 2  # the plans each time, checkpoints and the newest of them once


def test_open_shards_are_remembered_and_looked_at_again(ledger: Ledger) -> None:
    ledger.plan_new(entries(10), 4)
    commit(ledger, ShardId(1, 0))
    assert ledger.checkpoint(always=True)
    assert again(ledger).open_shards() == [ShardId(1, 1), ShardId(1, 2)]
    commit(ledger, ShardId(1, 2), {entries(10)[9]["key"]: "unreadable"})
    fresh = again(ledger)
    assert fresh.open_shards() == [ShardId(1, 1)]
    assert same(fresh.history(), fresh.history(anew=True))
    assert fresh.plan_new(entries(10), 4) == [2]
    assert [problem.key for problem in verify(fresh)] == ["shards/000001-00001.parquet", "shards/000002-00000.parquet"]


def test_a_look_at_a_share_asks_for_what_is_done_and_a_few_shards_more(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.plan_new(entries(80), 4)
    share = [ShardId(1, n) for n in range(20)]
    for shard in (0, 1, 3, 12):
        commit(ledger, ShardId(1, shard))
    asked = list[str]()
    exists = Store.exists
    monkeypatch.setattr(Store, "exists", lambda self, key: asked.append(key) or exists(self, key))
    assert ledger.next_committed(share) == {ShardId(1, 0), ShardId(1, 1), ShardId(1, 3)}
    assert len(asked) == 3 + 4
    assert ledger.committed_among(share) == {ShardId(1, n) for n in (0, 1, 3, 12)}


def test_shards_left_open_in_several_plans_are_all_remembered(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a ledger that has looked before, and where plans are read a few at a time."""
    monkeypatch.setattr(ledger_module, "NEWS_AT_A_TIME", 1)
    photos = entries(24)
    for plan in (1, 2, 3):
        ledger.plan_new(photos[: 8 * plan], 4)
    commit(ledger, ShardId(2, 0))
    again(ledger).checkpoint(always=True)
    watching = again(ledger)
    watching.history()
    commit(ledger, ShardId(1, 1))
    for looking in (watching, again(ledger)):
        found, anew = looking.history(), looking.history(anew=True)
        assert found.footer() == anew.footer()
        assert found.table().equals(anew.table())
        assert looking.plan_new(photos, 4) == []
    assert again(ledger).plan_new(entries(26), 4) == [4]
    assert watching.history().footer() == ledger.history(anew=True).footer()
    assert watching.open_shards() == list(ledger.history(anew=True).open_shards)


@pytest.mark.long
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "foreign"])
def test_a_damaged_checkpoint_costs_time_and_is_named(long: Ledger, damage: str) -> None:
    truth = long.history()
    long.checkpoint(always=True)
    (path,) = (Path(long.store.location.path) / "checkpoints").iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"flip": data, "truncate": data[:-9], "empty": b"", "foreign": b"PAR1 hello"}[damage])
    assert same(again(long).history(), truth)
    assert [problem.key for problem in verify(again(long))] == [f"checkpoints/{path.name}"]


@pytest.mark.long
def test_a_checkpoint_that_tells_lies_is_named(long: Ledger) -> None:
    history = long.history()
    history.photos["state"][0] = 1 - min(int(history.photos["state"][0]), 1)
    long.checkpoint(history, always=True)
    assert "differs from plans" in next(verify(again(long))).message


@pytest.mark.long
def test_checkpoints_are_written_when_there_is_news_and_the_last_two_stay(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MAX_NEWS", 5)
    written = []
    for number in range(1, 13):
        night(again(ledger), entries(number))
        written.append(again(ledger).checkpoint())
    assert written == [False, False, True] * 4
    assert len(list(ledger.store.list("checkpoints/"))) == 2
    assert gc(again(ledger)) == []


def test_a_checkpoint_of_a_large_open_job_is_not_written(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "MAX_OPEN", 2)
    ledger.plan_new(entries(20), 4)
    assert not ledger.checkpoint(always=True)


def test_totals_add_up_over_all_commits(long: Ledger) -> None:
    totals = long.history().totals
    assert (totals.rows, totals.nfe, totals.seconds) == (long.status().committed, 10 * totals.rows, 1.5 * totals.rows)
    assert totals.verdicts == {"improved": totals.ok}
    assert totals.codes == {"damaged": 12, "unreadable": 12}
    assert totals.ok + totals.failed == totals.rows


def test_a_ledger_from_before_attempts_reads_on(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans without ``attempt`` and commits whose footers count nothing."""
    monkeypatch.setattr(ledger_module.ShardFacts, "footer", lambda self: {"rows": 1, "ok": 1, "failed": 0})
    photos = [{**entry, "attempt": None} for entry in entries(5)]
    ledger.add_plan(ledger_module._plan_table(photos, 5), 1)
    commit(ledger, ShardId(1, 0), {photos[3]["key"]: "unreadable"}, attempt=None)
    monkeypatch.undo()
    assert again(ledger).status().failed == 1
    assert night(again(ledger), entries(5)) == [2]
    assert list(verify(again(ledger))) == []


# codes


def test_every_code_of_a_photo_is_known_and_few_are_retryable() -> None:
    from tasks.photos.formats import CODES

    assert set(CODES) <= set(ErrorCode)
    assert set(RETRYABLE) == {"unreadable", "unreachable", "too-slow", "took-too-long", "out-of-memory"}
    assert np.all([not RetryRule().admits(code, 1) for code in CODES])
