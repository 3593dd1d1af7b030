"""Two at once, clocks that jump, listings of yesterday, rights that are lost: the ledger's promises hold."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from tasks.store import ledger as ledger_module
from tasks.store.backends import Entry
from tasks.store.errors import ForeignConfiguration
from tasks.store.ledger import Ledger, ShardId
from tasks.store.objects import Store, open_store
from tasks.store.verify import gc, verify
from tests.chaos import tiny_job
from tests.chaos.check_output import check
from tests.chaos.tiny_job import QUICK, Job, entries
from tests.tasks.store.test_store_history import again, commit, night


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(open_store(str(tmp_path / "out"), QUICK))
    made.create_run({"steps": 3})
    return made


def test_of_two_configurations_that_start_at_once_one_is_refused(tmp_path: Path) -> None:
    """Twenty empty outputs, two runs each, let go at the same moment."""
    for number in range(20):
        store = open_store(str(tmp_path / str(number)), QUICK)
        gate, ended = threading.Barrier(2), dict[int, object]()

        def begin(
            steps: int, store: Store = store, gate: threading.Barrier = gate, ended: dict[int, object] = ended
        ) -> None:
            gate.wait()
            try:
                ended[steps] = Ledger(store).create_run({"steps": steps})
            except ForeignConfiguration as error:
                ended[steps] = error

        threads = [threading.Thread(target=begin, args=(steps,)) for steps in (10, 25)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [steps for steps, end in ended.items() if isinstance(end, ForeignConfiguration)]
        assert len(refused) == 1
        assert Ledger(store).run().configuration == {"steps": 35 - refused[0]}
        assert "steps: there" in str(ended[refused[0]])


def test_the_loser_of_that_race_reads_the_winner_and_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run comes exactly between looking and creating."""
    store = open_store(str(tmp_path), QUICK)
    probe = Store.probe_exclusive

    def late(self: Store) -> None:
        monkeypatch.setattr(Store, "probe_exclusive", probe)
        Ledger(store).create_run({"steps": 10})
        probe(self)

    monkeypatch.setattr(Store, "probe_exclusive", late)
    with pytest.raises(ForeignConfiguration, match="there 10, here 25"):
        Ledger(store).create_run({"steps": 25})
    assert Ledger(store).run().configuration == {"steps": 10}


# gc


def leftovers(ledger: Ledger, count: int) -> list[str]:
    """Pictures that no commit names."""
    names = [f"images/left {i}.jpg" for i in range(count)]
    for name in names:
        ledger.store.put_new(name, b"left")
    return names


def test_gc_that_is_killed_half_way_is_finished_by_the_next(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    night(ledger, entries(6))
    names, delete = leftovers(ledger, 40), Store.delete
    left = iter(range(17))

    def killed(self: Store, key: str) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        delete(self, key)

    monkeypatch.setattr(Store, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        gc(ledger, dry_run=False)
    monkeypatch.setattr(Store, "delete", delete)
    assert 0 < sum(ledger.store.exists(name) for name in names) < 40
    assert list(verify(again(ledger))) == []
    gc(again(ledger), dry_run=False)
    assert not any(ledger.store.exists(name) for name in names)
    assert list(verify(again(ledger))) == []


def test_gc_beside_a_starting_run_deletes_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run plans, stores its pictures and commits while gc is between listing and deleting."""
    night(ledger, entries(6))
    names = leftovers(ledger, 3)
    listing, stored = Store.list, list[str]()

    def late(self: Store, prefix: str = "") -> Iterable[Entry]:
        if prefix == "" and not stored:
            other = again(ledger)
            other.plan_new(entries(9), 4)
            stored.append(other.pictures.put(2, "new.jpg", b"a picture of a shard that is open", ".jpg").path)
        return listing(self, prefix)

    monkeypatch.setattr(Store, "list", late)
    with pytest.raises(ValueError, match="A run has begun meanwhile"):
        gc(again(ledger), dry_run=False)
    assert all(ledger.store.exists(name) for name in [*stored, *names])


def test_a_name_that_clean_up_took_is_never_used_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run stores pictures equal to the leftovers before and after they are deleted, and again after the next gc."""
    night(ledger, entries(6))
    (name,) = leftovers(ledger, 1)
    delete, taken = Store.delete, list[str]()

    def run(plan: int) -> None:
        other = again(ledger)
        other.plan_new(entries(5 + plan), 4)
        taken.append(other.pictures.put(plan, "left 0.jpg", b"left", ".jpg").path)

    def late(self: Store, key: str) -> None:
        run(2)
        delete(self, key)
        run(3)

    monkeypatch.setattr(Store, "delete", late)
    assert [entry.key for entry in gc(again(ledger), dry_run=False)] == [name]
    monkeypatch.setattr(Store, "delete", delete)
    assert name not in taken
    assert all(ledger.store.get(path) == b"left" for path in taken)
    for shard in again(ledger).open_shards():
        commit(ledger, shard)
    assert {entry.key for entry in gc(again(ledger), dry_run=False)} == set(taken)
    run(4)
    assert taken[2] not in {name, *taken[:2]}
    assert ledger.store.get(taken[-1]) == b"left"


# listings of yesterday


class Stale(Ledger):
    """Sees plans and shards as they were at the start."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._plans, self._shards = super().plans(), super()._listed(None)

    def plans(self) -> list[int]:
        return self._plans

    def _listed(self, plan: int | None) -> set[ShardId]:
        return {shard for shard in self._shards if plan in (None, shard.plan)}


def test_a_run_that_sees_the_listing_of_yesterday_plans_nothing_twice(ledger: Ledger) -> None:
    stale = Stale(ledger.store)
    night(ledger, entries(6))
    assert stale.plan_new(entries(8), 4) == [2]
    for shard in again(ledger).open_shards():
        commit(ledger, shard)
    status = again(ledger).status()
    assert (status.photos, status.planned, status.ok) == (8, 8, 8)
    assert list(verify(again(ledger))) == []


def test_a_shard_that_seems_open_is_committed_once(ledger: Ledger) -> None:
    ledger.plan_new(entries(6), 4)
    stale = Stale(ledger.store)
    for shard in ledger.open_shards():
        commit(ledger, shard)
    before = {shard: ledger.shard_footer(*shard)["attempt_id"] for shard in ledger.committed()}
    for shard in stale.open_shards():
        commit(stale, shard)
    assert {shard: ledger.shard_footer(*shard)["attempt_id"] for shard in ledger.committed()} == before
    assert list(verify(again(ledger))) == []


# clocks


@pytest.mark.long
@pytest.mark.parametrize("jump", [-10 * 365 * 86400.0, -3600.0, 3600.0, 10 * 365 * 86400.0])
def test_checkpoints_and_retries_do_not_ask_the_clock(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """The clock jumps between two nights; what is new, what failed and which checkpoint is the newest stay the same."""
    photos = entries(6)
    bad = {photos[2]["key"]: "unreadable"}
    night(ledger, photos, bad)
    assert ledger.checkpoint(always=True)
    for path in Path(ledger.store.location.path).rglob("*.parquet"):
        os.utime(path, (path.stat().st_mtime - jump,) * 2)
    monkeypatch.setattr("time.time", lambda: 1.8e9 + jump)
    monkeypatch.setattr(ledger_module, "MAX_NEWS", 0)
    assert night(again(ledger), photos, bad) == [2]
    assert again(ledger).checkpoint()
    assert night(again(ledger), photos) == [3]
    assert (again(ledger).status().ok, again(ledger).status().failed) == (6, 0)
    assert list(verify(again(ledger))) == []


# rights

AS_NOBODY = """
import os, sys
from tasks.store.errors import StoreError
from tests.chaos import tiny_job
from tests.chaos.tiny_job import Job

output, number = sys.argv[1], int(sys.argv[2])
os.makedirs(output)
os.chown(output, 65534, 65534)
os.setgid(65534)
os.setuid(65534)
write, left = os.link, iter(range(number))

def link(*arguments, **more):
    if next(left, None) is None:
        for place, _, _ in os.walk(output):
            os.chmod(place, 0o555)
    write(*arguments, **more)

os.link = link
try:
    tiny_job.run(Job(output, 6, 3))
except StoreError as error:
    print(type(error).__name__, error)
    sys.exit(2)
"""


@pytest.mark.server
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_rights_lost_in_the_middle_of_a_run_are_named_and_nothing_is_half_done(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """As an ordinary user: the output's folders become read-only before its n-th object is linked into place."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        for number in (0, 2, 5, 8):
            output = f"{place}/{number}/out"
            done = subprocess.run(
                [sys.executable, "-c", AS_NOBODY, output, str(number)], capture_output=True, text=True, timeout=120,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
            assert done.returncode == 2, done.stdout + done.stderr
            assert done.stdout.startswith("AccessDenied"), done.stdout
            assert "check the" in done.stdout
            assert check(output, partial=True) == []
            for folder, _, _ in os.walk(output):
                os.chmod(folder, 0o777)
            tiny_job.run(Job(output, 6, 3))
            assert check(output, expected_keys=tiny_job.keys(6)) == []
