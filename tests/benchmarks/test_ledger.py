"""The benchmark of a large ledger writes what Fixpoint reads, and counts its requests."""

import re
import sys

import pytest

from benchmarks import ledger


def test_a_run_with_nothing_new_reads_a_checkpoint_and_no_commit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ledger", "--plans", "3", "--rows", "20", "--shards", "4"])
    ledger.main()
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "60 photos, 3 plans, 12 shards"
    gets = {line.split(":")[0]: int(found[1]) for line in lines if (found := re.search(r"(\d+) GET", line))}
    assert (
        gets["idle run, no checkpoint"] == 2 + 3 + 3 + 12
    )  # run.json twice, plans by their footers and whole, commits
    assert gets["idle run, checkpoint of 0 MB"] == 3
