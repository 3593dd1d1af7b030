"""What is current after several nights: the newest good row of each photo, what is gone, and its picture by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.analytics.current import update_current
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tasks.store.schema import shard_schema
from tests.chaos.tiny_job import QUICK


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(open_store(str(tmp_path / "out"), QUICK))
    made.create_run({"steps": 3})
    return made


def night(ledger: Ledger, versions: dict[str, str], bad: str = "", *, leave: int = 0) -> None:
    """A run on photos (key: version) with shards of one photo; those in ``bad`` fail, ``leave`` shards stay open."""
    ledger.plan_new([{"key": k, "uri": f"memory://{k}", "size": 1, "etag": v} for k, v in versions.items()], 1)
    todo = ledger.open_shards()
    for shard in todo[: len(todo) - leave]:
        (planned,) = ledger.read_plan_shard(*shard).to_pylist()
        row = {**shard._asdict(), "row": 0, "key": planned["key"], "source_etag": planned["etag"], "status": "failed"}
        if planned["key"] in bad:
            row["error_code"] = "truncated"
        else:
            picture = ledger.pictures.put(shard.plan, planned["key"], planned["etag"].encode(), ".jpg")
            row |= {"status": "ok", "output_path": picture.path, "output_sha256": picture.sha256}
        ledger.commit_shard(*shard, pa.Table.from_pylist([row], schema=shard_schema()), {})


def table(ledger: Ledger) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(Path(ledger.store.location.path) / "current/photos.parquet").to_pylist()
    return {row["key"]: row for row in rows}


def shown(ledger: Ledger) -> dict[str, str]:
    folder = Path(ledger.store.location.path) / "current/images"
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


@pytest.mark.long
def test_the_newest_good_row_of_each_photo_is_current_and_lies_under_its_name(ledger: Ledger) -> None:
    night(ledger, {"a.jpg": "old", "b.jpg": "old", "c.jpg": "old"}, bad="c.jpg")
    first = update_current(ledger.store.location.path, ["a.jpg", "b.jpg", "c.jpg"], pictures=True)
    assert (first.photos, first.gone, first.copied, first.shards_new) == (2, 0, 2, 3)
    assert shown(ledger) == {"a.jpg": "old", "b.jpg": "old"}

    night(ledger, {"a.jpg": "new", "b.jpg": "new", "c.jpg": "new"}, bad="b.jpg", leave=1)  # c stays open
    second = update_current(ledger.store.location.path, ["a.jpg"], pictures=True)
    assert (second.shards_new, second.photos, second.gone, second.copied, second.removed) == (2, 2, 1, 1, 1)
    now = table(ledger)
    assert (now["a.jpg"]["source_etag"], now["a.jpg"]["gone_at"], now["a.jpg"]["failed_since"]) == ("new", None, None)
    assert (now["b.jpg"]["source_etag"], now["b.jpg"]["failed_since"]) == ("old", "truncated")
    assert shown(ledger) == {"a.jpg": "new"}
    assert ledger.store.get("images/a.jpg") == b"old"  # immutable, as is promised

    night(ledger, {})
    third = update_current(ledger.store.location.path, ["a.jpg", "b.jpg", "c.jpg"], pictures=True)
    assert (third.shards_new, third.photos, third.gone) == (1, 3, 0)
    assert shown(ledger) == {"a.jpg": "new", "b.jpg": "old", "c.jpg": "new"}
    again = update_current(ledger.store.location.path, pictures=True)
    assert (again.shards_new, again.copied, again.removed) == (0, 0, 0)

    made = table(ledger)
    (Path(ledger.store.location.path) / "current/photos.parquet").unlink()
    assert update_current(ledger.store.location.path).shards_new == 6  # made anew, it says the same
    assert [row | {"copied_sha256": None} for row in made.values()] == list(table(ledger).values())


def test_the_view_in_sql_says_the_same(ledger: Ledger) -> None:
    night(ledger, {"a.jpg": "1", "b.jpg": "1"})
    night(ledger, {"a.jpg": "2", "b.jpg": "2"}, bad="b.jpg")
    update_current(ledger.store.location.path)
    recipes = (Path(__file__).parents[3] / "docs/RECIPES.md").read_text()
    view = recipes[recipes.index("CREATE VIEW current") :].partition('"""')[0]
    with duckdb.connect() as connection:
        connection.execute(view.replace("night/", f"{ledger.store.location.path}/"))
        found = connection.execute("SELECT key, source_etag FROM current ORDER BY key").fetchall()
    assert (
        found == [(key, row["source_etag"]) for key, row in table(ledger).items()] == [("a.jpg", "2"), ("b.jpg", "1")]
    )
