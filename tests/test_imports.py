"""Who may import whom, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "fpcore": {"prefect", "fsspec", "s3fs", "pyarrow", "tasks", "flows"},
    "tasks/store": {"torch", "prefect", "fpcore", "flows", "diffusers", "transformers"},
    "tasks": {"flows"},
    "flows": {"diffusers", "transformers"},
}


def imported(file: Path) -> set[str]:
    """Top-level names of every import in a file, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_layers_import_downwards_only(layer: str) -> None:
    broken = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in (ROOT / layer).rglob("*.py")
        for name in imported(file)
        if name.split(".")[0] in FORBIDDEN[layer]
    ]
    assert not broken


def test_flows_import_no_torch() -> None:
    """The demo renders haze and is the exception."""
    broken = [
        f.name
        for f in (ROOT / "flows").glob("*.py")
        if f.name != "demo.py" and any(n.split(".")[0] == "torch" for n in imported(f))
    ]
    assert not broken


def test_solvers_know_nothing_of_diffusion() -> None:
    assert not {n for n in imported(ROOT / "fpcore" / "solvers.py") if n.startswith(("fpcore", "diffusers"))}


def test_fpcore_works_without_prefect_and_storage() -> None:
    """The mathematics imports where Prefect, fsspec and pyarrow cannot."""
    script = (
        "import sys\n"
        "for name in ('prefect', 'fsspec', 's3fs', 'pyarrow'): sys.modules[name] = None\n"
        "import fpcore.invert, fpcore.sample, fpcore.analytic, fpcore.methods\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
