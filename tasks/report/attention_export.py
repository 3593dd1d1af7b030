"""The attention maps of a run's shards as files that people open."""

from __future__ import annotations

from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tasks.store.pictures import picture_key


def export_attention(output: str, folder: str) -> int:
    """Write each photo's map to ``folder`` under the photo's own path, as PNG; how many there are.

    Raises ValueError if the run kept none.
    """
    ledger, target, count = Ledger(open_store(output)), open_store(folder), 0
    for shard in ledger.committed():
        for row in ledger.read_shard(*shard, ["key", "attention_map"]).to_pylist():
            if row["attention_map"] is not None:
                target.put(picture_key(row["key"], ".png").removeprefix("images/"), row["attention_map"]["bytes"])
                count += 1
    if not count:
        raise ValueError(f"{output} holds no attention maps: edit with --attention-maps")
    return count
