"""What the README and its neighbours name is there, and every block of it is run somewhere."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from tasks.config import MethodName
from tests.readme.blocks import BLOCKS, OTHERS, ROOT, SHELL, TEXT


def test_every_block_is_run_somewhere() -> None:
    kinds = [kind for kind, _ in BLOCKS]
    assert set(kinds) <= {"sh", "python", "sql", "text"}
    assert len(SHELL) == kinds.count("sh") - 2
    assert all(line.startswith("fixpoint ") for line in OTHERS)
    targets = {word for code in (c for k, c in BLOCKS if k == "sh") for word in re.findall(r"^make (\S+)", code, re.M)}
    assert targets == {"demo", "test"}
    nightly = (ROOT / ".github" / "workflows" / "nightly.yml").read_text()
    assert all(f"run: make {target}" in nightly for target in targets)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"])
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_method_is_named() -> None:
    named = re.findall(r"`([\w-]+)`", TEXT.split("Methods by name:")[1].split("\n\n")[0])
    assert named == list(get_args(MethodName))
