"""The benchmark of compaction leaves one file of many nights, and reading it takes fewer requests."""

import re
import sys

import pytest

from benchmarks import compact


@pytest.mark.long
def test_many_nights_become_one_file_that_takes_fewer_requests(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["compact", "--nights", "70", "--rows", "3"])
    compact.main()
    before, *lines = capsys.readouterr().out.splitlines()
    assert before.startswith("70 nights of 3: 70 objects")
    assert any(line.startswith("after: 1 objects") for line in lines)
    gets = [int(found[1]) for line in lines if line.startswith("read") and (found := re.search(r"(\d+) GET", line))]
    assert gets[0] >= 70 > 10 > gets[1]
