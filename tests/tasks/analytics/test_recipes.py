"""Every recipe of docs/RECIPES.md, run as it stands, against the answer printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.analytics.aggregate import aggregate
from tasks.analytics.export import export
from tests.ledgers import Recipe, write_ledger

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[3]
BLOCKS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", (ROOT / "docs/RECIPES.md").read_text(), re.DOTALL)
LIBRARIES = [re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)[0] for code, _ in BLOCKS]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outputs `night` and `fast` and their `tables`."""
    root = tmp_path_factory.mktemp("recipes")
    recipe = Recipe(photos=24, inference_steps=12, size=(60, 40))
    write_ledger(root / "night", root / "photos", recipe)
    write_ledger(root / "fast", root / "photos", replace(recipe, speed=2.0, method="certified, extrapolated"))
    aggregate([str(root / "night"), str(root / "fast")], str(root / "tables"))
    export(str(root / "night"), str(root / "lake"), "delta")
    return root


def test_there_is_a_recipe_for_every_library() -> None:
    assert set(LIBRARIES) >= {"duckdb", "polars", "pandas", "datasets", "pyarrow"}
    assert (ROOT / "docs/RECIPES.md").read_text().count("```python") == len(BLOCKS), "a recipe without its answer"


@pytest.mark.parametrize(("code", "answer"), BLOCKS, ids=[f"{n}-{name}" for n, name in enumerate(LIBRARIES)])
def test_the_recipe_gives_its_answer(place: Path, code: str, answer: str) -> None:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(place / "hub"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == answer
