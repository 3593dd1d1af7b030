"""What failed in an output and what is open, as Markdown."""

from __future__ import annotations

from collections import Counter

from tasks.store.errors import StoreError
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tasks.text import markdown

MAX_SHARDS = 50
"""Shards with failed photos that are read; the summary says if there are more."""


def failure_summary(output: str) -> str:
    """Counts of done, failed and open, the reasons of failed photos with an example each, and what to do next."""
    try:
        ledger = Ledger(open_store(output))
        status = ledger.status()
        reasons = _reasons(ledger) if status.failed else []
    except (StoreError, ValueError) as error:
        return f"The output cannot be read: {markdown(error)}\n"
    done = f"{status.committed} of {status.planned} photos have a row, {status.failed} of them failed; "
    lines = [done + f"{status.open_shards} of {status.shards} shards are open.", ""]
    if reasons:
        lines += ["| reason | photos | for example | |", "|---|---|---|---|", *reasons, ""]
    if status.open_shards:
        lines.append("The same run again goes on with the open shards; nothing is done twice.")
    return "\n".join(lines) + "\n"


def _reasons(ledger: Ledger) -> list[str]:
    """Table rows, the most frequent reason first."""
    counts: Counter[str] = Counter()
    examples: dict[str, tuple[str, str]] = {}
    with_failures = [shard for shard in ledger.committed() if ledger.shard_footer(*shard)["failed"]]
    for shard in with_failures[:MAX_SHARDS]:
        rows = ledger.read_shard(*shard, columns=["key", "status", "error_code", "error_message"]).to_pylist()
        for row in (row for row in rows if row["status"] == "failed"):
            counts[row["error_code"]] += 1
            examples.setdefault(row["error_code"], (row["key"], row["error_message"]))
    table = [
        f"| {markdown(code)} | {n} | {markdown(examples[code][0], 200)} | {markdown(examples[code][1], 200)} |"
        for code, n in counts.most_common()
    ]
    more = len(with_failures) - MAX_SHARDS
    return table + ([f"| … | {more} more shards with failed photos | | |"] if more > 0 else [])
