"""The README's first commands, its question and its Python do what they say, as printed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import duckdb
import pytest

from tests.readme.blocks import BLOCKS, FIRST, run, run_as_printed

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def dehazed(place: Path) -> Path:
    """The folder after the first commands."""
    run_as_printed(FIRST, place)
    return place


def test_the_question_is_answered(dehazed: Path) -> None:
    (question,) = (code for kind, code in BLOCKS if kind == "sql")
    answer = duckdb.sql(question.replace("'results/", f"'{dehazed}/results/")).fetchall()
    assert {key for key, *_ in answer} == {"china.jpg", "rocket.jpg"}


def test_python_runs_with_one_import_of_ours(place: Path) -> None:
    (code,) = (code for kind, code in BLOCKS if kind == "python")
    assert len(re.findall(r"^(?:from|import) fpcore", code, re.MULTILINE)) == 1
    printed = run([sys.executable, "-c", code + "\nassert clear.shape == again.shape == pictures.shape"], place)
    assert printed.startswith("[<Status.CONVERGED")
