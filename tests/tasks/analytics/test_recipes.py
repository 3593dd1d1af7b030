"""Every recipe of docs/RECIPES.md, run as it stands, against the answer printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tasks.analytics.aggregate import aggregate
from tasks.analytics.export import export
from tests.ledgers import Recipe, write_ledger
from tests.servers import run_moto

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[3]
BLOCKS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", (ROOT / "docs/RECIPES.md").read_text(), re.DOTALL)
LIBRARIES = [re.findall(r"^(?:import|from) (duckdb|(?!os|urllib)\w+)", code, re.MULTILINE)[0] for code, _ in BLOCKS]
ENGINES = ("pyspark", "duckdb-extension-httpfs", "duckdb-extensions")
"""What some recipes want and the project does not: 450 MB, or another version of DuckDB."""


@dataclass(frozen=True)
class Place:
    """A folder with the outputs `night` and `fast` and their `tables`; `night` also in a bucket, with this environment."""

    folder: Path
    environment: dict[str, str]

    def run(self, python: str, code: str) -> str:
        """What a recipe prints."""
        environment = os.environ | self.environment | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        for name, folder in (("HF_HOME", "hub"), ("HOME", "home")):
            environment[name] = str(self.folder / folder)
        done = subprocess.run([python, "-c", code], cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("recipes")
    (root / "home").mkdir()
    recipe = Recipe(photos=24, inference_steps=12, size=(60, 40))
    write_ledger(root / "night", root / "photos", recipe)
    write_ledger(root / "fast", root / "photos", replace(recipe, speed=2.0, method="certified, extrapolated"))
    aggregate([str(root / "night"), str(root / "fast")], str(root / "tables"))
    export(str(root / "night"), str(root / "lake"), "delta")
    with run_moto() as server:
        server.make_bucket("bucket")
        for path in (root / "night/shards").iterdir():
            server.client().put_object(Bucket="bucket", Key=f"night/shards/{path.name}", Body=path.read_bytes())
        yield Place(root, server.env)


def wants_an_engine(code: str) -> bool:
    return "pyspark" in code or "httpfs" in code


def recipes(engine: bool) -> list:
    return [
        pytest.param(code, answer, id=f"{n}-{name}")
        for n, (name, (code, answer)) in enumerate(zip(LIBRARIES, BLOCKS, strict=True))
        if wants_an_engine(code) == engine
    ]


def test_there_is_a_recipe_for_every_library() -> None:
    assert set(LIBRARIES) >= {"duckdb", "polars", "pandas", "datasets", "pyarrow", "pyspark"}
    assert (ROOT / "docs/RECIPES.md").read_text().count("```python") == len(BLOCKS), "a recipe without its answer"


@pytest.mark.parametrize(("code", "answer"), recipes(engine=False))
def test_the_recipe_gives_its_answer(place: Place, code: str, answer: str) -> None:
    assert place.run(sys.executable, code) == answer


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of an environment with Spark, which wants Java, and DuckDB with its extension."""
    folder = tmp_path_factory.mktemp("engines")
    python = folder / "bin/python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *ENGINES], check=True)
    return str(python)


@pytest.mark.chaos  # installs half a gigabyte
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("code", "answer"), recipes(engine=True))
def test_the_recipe_gives_its_answer_in_an_engine_of_its_own(
    place: Place, engines: str, code: str, answer: str
) -> None:
    if "httpfs" in code:
        place.run(engines, "from duckdb_extensions import import_extension\nimport_extension('httpfs')")
    assert place.run(engines, code) == answer
