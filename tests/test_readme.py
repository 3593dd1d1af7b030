"""The README's blocks do what they say, as printed, in one folder with photographs; what it names is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import duckdb
import pytest
from PIL import Image

from tests.photographs import hazy_photographs

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
MAKE, INSTALL = "make ", "python3 -m venv"  # run by the nightly workflow and by tests/test_wheel.py
SHELL = [code for kind, code in BLOCKS if kind == "sh" and not code.startswith((MAKE, INSTALL))]
pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Path:
    """A folder with two photographs in photos/."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "photos").mkdir()
    for name in ("china", "rocket"):
        Image.fromarray(hazy_photographs()[name]).save(folder / "photos" / f"{name}.jpg", quality=95)
    return folder


def run(command: list[str], place: Path) -> str:
    """What a command prints; ``fixpoint`` is the one of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("code", SHELL, ids=[block.split("\n")[0][:40] for block in SHELL])
def test_commands_run_as_printed(place: Path, code: str) -> None:
    run(["bash", "-euc", code], place)
    names = {"china.jpg", "rocket.jpg"}
    for output in re.findall(r"^fixpoint (?:dehaze|edit) photos/ (\w+)/", code, re.MULTILINE):
        assert {path.name for path in (place / output / "images").iterdir()} == names
        assert (place / output / "report" / "index.html").is_file()


def test_the_question_is_answered(place: Path) -> None:
    """After the commands above, whose results it asks."""
    if not (place / "results").is_dir():
        run(["bash", "-euc", SHELL[0]], place)
    (question,) = (code for kind, code in BLOCKS if kind == "sql")
    answer = duckdb.sql(question.replace("'results/", f"'{place}/results/")).fetchall()
    assert {key for key, *_ in answer} == {"china.jpg", "rocket.jpg"}


def test_python_runs_with_one_import_of_ours(place: Path) -> None:
    (code,) = (code for kind, code in BLOCKS if kind == "python")
    assert len(re.findall(r"^(?:from|import) fpcore", code, re.MULTILINE)) == 1
    printed = run([sys.executable, "-c", code + "\nassert clear.shape == again.shape == pictures.shape"], place)
    assert printed.startswith("[<Status.CONVERGED")


@pytest.mark.unit
def test_every_block_is_run_somewhere() -> None:
    kinds = [kind for kind, _ in BLOCKS]
    assert set(kinds) <= {"sh", "python", "sql", "text"}
    assert len(SHELL) == kinds.count("sh") - 2
    targets = {word for code in (c for k, c in BLOCKS if k == "sh") for word in re.findall(r"^make (\S+)", code, re.M)}
    assert targets == {"demo", "test"}
    nightly = (ROOT / ".github" / "workflows" / "nightly.yml").read_text()
    assert all(f"run: make {target}" in nightly for target in targets)


@pytest.mark.unit
@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"])
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.unit
def test_every_method_is_named() -> None:
    from tasks.config import MethodName

    named = re.findall(r"`([\w-]+)`", TEXT.split("Methods by name:")[1].split("\n\n")[0])
    assert named == list(get_args(MethodName))
