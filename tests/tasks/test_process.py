"""The shard's three hands: what is read ahead comes in order, whole, and no further ahead than promised."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.config import RunConfig
from tasks.process import _ahead, _groups, _with_batch_size
from tasks.sources import list_photos
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
    rows = [{**entry, "row": i} for i, entry in enumerate(list_photos(str(tmp_path)))]
    groups = [*_groups(rows, RunConfig(dehaze_variant="dcp", batch_size=1), None)]
    good = [item for group in groups for item in group.photos if item.error is None]
    bad = [item for group in groups for item in group.photos if item.error is not None]
    assert sorted(item.planned["key"] for item in good) == sorted(keys)
    assert {item.small.shape for item in good if item.small is not None} == {(3, 192, 256)}
    assert [item.planned["key"] for item in bad] == ["broken.png"]


@pytest.mark.parametrize("given", ["auto", 0])
def test_automatic_batch_size_is_a_number_when_it_is_used(given: object) -> None:
    config = RunConfig.model_validate({"batch_size": given})
    assert config.batch_size == 0
    assert _with_batch_size(config, None, (32, 32)).batch_size == 1
    assert _with_batch_size(RunConfig(batch_size=3), None, (32, 32)).batch_size == 3
