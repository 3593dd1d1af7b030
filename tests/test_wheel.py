"""The wheel works away from the checkout: typed, licensed, complete, and found whatever lies around it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.photographs import hazy_photographs

ROOT = Path(__file__).parent.parent
PARTS = (
    "fixpoint.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "fpcore", "tasks", "flows", "deployments", "tests",
)  # fmt: skip
pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]


def run(command: list[str | Path], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made as the README's ``pip install .`` makes it, from a copy so that nothing built lies about."""
    copy = tmp_path_factory.mktemp("source")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, copy / part)
    done = run([sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--wheel-dir", "built"], copy)
    assert done.returncode == 0, done.stderr
    (found,) = (copy / "built").glob("fixpoint_diffusion-*.whl")
    return found


@pytest.fixture(scope="module")
def fixpoint(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in a virtual environment that has the wheel, and everything else from this environment."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    done = run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel], home
    )
    assert done.returncode == 0, done.stderr
    (site,) = (home / "lib").glob("python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin" / "fixpoint"


def test_the_wheel_holds_what_it_must_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"{package}/py.typed" for package in ("fpcore", "tasks", "flows")}
    wanted |= {"fixpoint.py", "fpcore/builtin/haze/unet/diffusion_pytorch_model.safetensors"}
    wanted |= {"fpcore/builtin/graphs/haze.onnx", "fpcore/builtin/graphs/scenes.onnx"}
    wanted |= {"tasks/report/templates/report.html.j2", "deployments/prefect.yaml"}
    assert wanted <= names
    licences = {name.rsplit("/", 1)[1] for name in names if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_the_version_is_told(fixpoint: Path, tmp_path: Path) -> None:
    done = run([fixpoint, "--version"], tmp_path)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (done.returncode, done.stdout) == (0, f"fixpoint {version}\n")


def test_it_dehazes_in_a_folder_with_packages_of_the_same_names(
    fixpoint: Path, tmp_path: Path, prefect_api: str
) -> None:
    for name in ("flows", "tasks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    (tmp_path / "photos").mkdir()
    Image.fromarray(hazy_photographs()["china"]).save(tmp_path / "photos" / "china.jpg")
    done = run([fixpoint, "dehaze", "photos", "results"], tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "images" / "china.jpg").is_file()
