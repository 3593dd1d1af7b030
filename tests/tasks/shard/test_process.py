"""The shard's three hands: what is read ahead comes in order, whole, and no further ahead than promised."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fpcore.models.model import Model
from tasks.config import RunConfig
from tasks.photos.sources import list_photos
from tasks.shard import process
from tasks.shard.operate import _with_batch_size
from tasks.shard.process import _ahead, _groups
from tasks.store.access import SOURCE_ONLY
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tasks.store.planned import PlannedPhoto
from tests.photographs import write_photos


def test_one_item_is_made_ahead_and_no_more() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for i in range(5):
            made.append(i)
            if i == 1:
                second.set()
            yield i

    stream = _ahead(items())
    assert next(stream) == 0
    assert second.wait(10)  # while the consumer works on the first
    assert made == [0, 1]
    assert [*stream] == [1, 2, 3, 4]


def test_an_error_of_the_maker_reaches_the_consumer() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the store is away")

    stream = _ahead(items())
    assert next(stream) == 1
    with pytest.raises(OSError, match="away"):
        next(stream)


def test_groups_hold_every_photo_once_at_model_size(tmp_path: Path) -> None:
    keys = write_photos(tmp_path, 7)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    rows = [PlannedPhoto(shard=0, row=i, **entry) for i, entry in enumerate(list_photos(str(tmp_path)))]
    groups = [*_groups(rows, RunConfig(dehaze_variant="dcp", batch_size=1), None, SOURCE_ONLY)]
    good = [item for group in groups for item in group.photos if item.failure is None]
    bad = [item for group in groups for item in group.photos if item.failure is not None]
    assert sorted(item.planned.key for item in good) == sorted(keys)
    assert {item.small.shape for item in good if item.small is not None} == {(3, 192, 256)}
    assert [item.planned.key for item in bad] == ["broken.png"]


@pytest.mark.parametrize("given", ["auto", 0])
def test_automatic_batch_size_is_a_number_when_it_is_used(given: object) -> None:
    config = RunConfig.model_validate({"batch_size": given})
    assert config.batch_size == 0
    assert _with_batch_size(config, None, (32, 32)).batch_size == 1
    assert _with_batch_size(RunConfig(batch_size=3), None, (32, 32)).batch_size == 3


@pytest.mark.model
def test_two_shards_in_one_process_take_turns_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model keeps attention maps while it computes, so no two shards may be in it; both are committed."""
    write_photos(tmp_path / "in", 4)
    config = RunConfig(operation="invert", num_inference_steps=3, batch_size=2, prompt="", shard_size=2)
    ledger = Ledger(open_store(str(tmp_path / "out")))
    ledger.create_run(config.identity())
    ledger.plan_new(list_photos(str(tmp_path / "in")), config.shard_size)
    inside, most, names = [0], [0], set()
    evaluate = process.evaluate

    def noted(*arguments: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        names.add(threading.current_thread().name)
        try:
            return evaluate(*arguments)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(process, "evaluate", noted)
    with ThreadPoolExecutor(2) as threads:
        work = [threads.submit(process.process_shard, str(tmp_path / "out"), config, *s) for s in ledger.open_shards()]
        assert [w.result()["photos"] for w in work] == [2, 2]
    assert most == [1]
    assert len(names) == 1
    assert len(set(ledger.committed())) == 2


def test_large_photos_wait_as_files_until_the_device_has_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builtin_model: Callable[[str], Model]
) -> None:
    """One group instead of one for each handful of pixels, and the same pictures."""
    source, config = tmp_path / "in", RunConfig(dehaze_variant="regenerate", num_inference_steps=2, batch_size=4)
    write_photos(source, 3)
    for path in [*source.iterdir()]:
        Image.open(path).convert("RGB").resize((640, 480)).save(path.with_suffix(".jpg"))
        path.unlink()
    pictures, groups = list[list[bytes]](), list[int]()
    evaluate = process.evaluate
    monkeypatch.setattr(
        process, "evaluate", lambda group, *rest: groups.append(len(group.photos)) or evaluate(group, *rest)
    )
    monkeypatch.setattr(process, "model_for", lambda config: builtin_model("haze"))
    for most in (1 << 40, 2 * 640 * 480):
        monkeypatch.setattr(process, "PIXELS_IN_FLIGHT", most)
        output = tmp_path / f"out-{most}"
        ledger = Ledger(open_store(str(output)))
        ledger.create_run(config.identity())
        ledger.plan_new(list_photos(str(source)), 64)
        assert process.process_shard(str(output), config, 1, 0)["failed"] == 0
        pictures.append([path.read_bytes() for path in sorted((output / "images").iterdir())])
    assert groups == [3, 3]
    assert pictures[0] == pictures[1]
