"""What failed in an output and what is open, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tasks.store.error_codes import RetryRule, asked_codes
from tasks.store.errors import StoreError
from tasks.store.history import History
from tasks.store.ledger import Ledger, ShardId
from tasks.store.objects import open_store
from tasks.text import markdown

MAX_EXAMPLES = 50
"""Shards with failed photos that are read for an example of each reason."""


EVERY_FAILURE = RetryRule(asked=asked_codes("all"))


@dataclass(frozen=True)
class FailedPhoto:
    """A photo that failed, why, and where it was read from."""

    key: str
    code: str
    message: str
    source: str | None


def failure_summary(output: str) -> str:
    """Counts of done, failed and open, the reasons of failed photos with an example each, and what to do next."""
    try:
        ledger = Ledger(open_store(output))
        history = ledger.history()
        status = history.status()
        reasons = _reasons(ledger, history) if status.failed else []
    except (StoreError, ValueError) as error:
        return f"The output cannot be read: {markdown(error)}\n"
    done = f"{status.ok} of {status.photos} photos are done, {status.failed} failed; "
    lines = [done + f"{status.open_shards} of {status.shards} shards are open.", ""]
    if reasons:
        lines += ["| reason | photos | for example | |", "|---|---|---|---|", *reasons, ""]
    if status.open_shards:
        lines.append("The same run again goes on with the open shards; nothing is done twice.")
    return "\n".join(lines) + "\n"


def _reasons(ledger: Ledger, history: History) -> list[str]:
    """Table rows, the most frequent reason first; examples from the newest shards that have them."""
    shards = sorted({shard for shard, _, _ in history.failed(EVERY_FAILURE)}, reverse=True)[:MAX_EXAMPLES]
    examples: dict[str, tuple[str, str]] = {}
    for photo in failed_photos(ledger, shards):
        examples.setdefault(photo.code, (photo.key, photo.message))
    counts = sorted(history.failures().items(), key=lambda item: (-item[1], item[0]))
    shown = [(code, n, *examples.get(code, ("", ""))) for code, n in counts]
    return [f"| {markdown(code)} | {n} | {markdown(key, 200)} | {markdown(why, 200)} |" for code, n, key, why in shown]


def failed_photos(ledger: Ledger, shards: Iterable[ShardId]) -> Iterator[FailedPhoto]:
    """The failed photos of committed shards, in their order."""
    for shard in shards:
        table = ledger.read_shard(*shard, ["key", "status", "error_code", "error_message", "source_uri"])
        for row in table.to_pylist():
            if row["status"] != "ok":
                yield FailedPhoto(
                    row["key"], row["error_code"] or "unknown", row["error_message"] or "", row["source_uri"]
                )
