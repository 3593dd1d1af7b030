"""The page on hostile input names tests that exist, and none that never runs."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "RELIABILITY.md").read_text()


def defined() -> dict[str, ast.FunctionDef]:
    """Every test by its name."""
    trees = (ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("test_*.py"))
    functions = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return {node.name: node for node in functions if node.name.startswith("test_")}


@pytest.mark.long
def test_every_sentence_about_hostile_input_has_its_test() -> None:
    section = PAGE.partition("## Hostile input")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 25
    known = defined()
    for _, sentence, tests in rows:
        names = re.findall(r"`(test_\w+)`", tests)
        assert names, sentence
        assert [name for name in names if name not in known] == [], sentence


def test_files_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"\btests/[\w/]+\.py", PAGE))
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
