"""Who may import whom, read from the source: layers, and the rooms inside them."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("fpcore", "tasks", "flows", "deployments", "benchmarks")
FORBIDDEN = {
    "fpcore": {"prefect", "fsspec", "s3fs", "pyarrow", "tasks", "flows", "tests", "benchmarks"},
    "tasks/store": {"torch", "prefect", "fpcore", "flows", "diffusers", "transformers", "tests", "benchmarks"},
    "tasks": {"flows", "tests", "benchmarks"},
    "flows": {"torch", "diffusers", "transformers", "tests", "benchmarks"},
}
ROOMS = {
    # a room, or a file that stands beside the rooms: what of its own layer it may import
    "fpcore.inversion": set(),
    "fpcore.evaluation": set(),
    "fpcore.models": set(),
    "fpcore.color_transfer": set(),
    "fpcore.stopwatch": set(),
    "fpcore.builtin": {"fpcore.models"},
    "fpcore.editing": {"fpcore.inversion", "fpcore.models"},
    "fpcore.dehazing": {
        "fpcore.inversion",
        "fpcore.editing",
        "fpcore.models",
        "fpcore.evaluation",
        "fpcore.builtin",
        "fpcore.color_transfer",
        "fpcore.small_unet",
        "fpcore.stopwatch",
    },
    "fpcore.small_unet": set(),
    "fpcore.restoration": {
        "fpcore.inversion",
        "fpcore.models",
        "fpcore.evaluation",
        "fpcore.builtin",
        "fpcore.color_transfer",
        "fpcore.small_unet",
        "fpcore.stopwatch",
    },
    "tasks.store": set(),
    "tasks.config": set(),
    "tasks.edit_settings": {"tasks.config"},
    "tasks.text": {"tasks.store"},
    "tasks.photos": {"tasks.store", "tasks.config", "tasks.edit_settings"},
    "tasks.shard": {"tasks.photos", "tasks.store", "tasks.config", "tasks.edit_settings"},
    "tasks.analytics": {"tasks.store", "tasks.config"},
    "tasks.report": {"tasks.text", "tasks.analytics", "tasks.photos", "tasks.store", "tasks.config"},
    "tasks.evaluation": {"tasks.text", "tasks.shard", "tasks.photos", "tasks.store", "tasks.config"},
    "tasks.estimate": {"tasks.photos", "tasks.store"},
    "tasks.steps": {
        "tasks.shard",
        "tasks.report",
        "tasks.photos",
        "tasks.store",
        "tasks.config",
        "tasks.edit_settings",
    },
    "tasks.prefect_tasks": {"tasks.steps", "tasks.shard", "tasks.store", "tasks.config"},
}


@cache
def imported(file: Path) -> frozenset[str]:
    """The modules that a file imports anywhere in it; of ``from package import name`` the name, if it is a module."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if is_module(name) else node.module for name in found}
    return frozenset(names)


def is_module(name: str) -> bool:
    """Whether a dotted name is a file or a folder of this project."""
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


def files(layer: str) -> list[Path]:
    """The Python files of a layer."""
    return sorted((ROOT / layer).rglob("*.py"))


def module_of(file: Path) -> str:
    """The dotted name of a file."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room that a module of fpcore or tasks stands in: the first two parts of its name."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_layers_import_downwards_only(layer: str) -> None:
    broken = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files(layer)
        for name in imported(file)
        if name.split(".")[0] in FORBIDDEN[layer]
    ]
    assert not broken


@pytest.mark.parametrize("layer", ["fpcore", "tasks"])
def test_every_room_is_named_here_and_imports_only_what_is_said(layer: str) -> None:
    broken = []
    for file in files(layer):
        room = room_of(module_of(file))
        if room == layer:
            continue
        for name in imported(file):
            other = room_of(name)
            if name.startswith(layer + ".") and other != room and other not in ROOMS[room]:
                broken.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not broken


def test_no_room_is_named_that_does_not_stand() -> None:
    assert not [room for room in ROOMS if not is_module(room)]


@pytest.mark.parametrize("layer", LAYERS)
def test_no_file_imports_itself_by_way_of_others(layer: str) -> None:
    """No circles: the imports of a layer's files can be put in an order."""
    modules = {module_of(file): file for file in files(layer)}
    arrows = {name: {other for other in imported(file) if other in modules} - {name} for name, file in modules.items()}
    while arrows:
        leaves = {name for name, others in arrows.items() if not others & arrows.keys()}
        assert leaves, f"a circle among {sorted(arrows)}"
        arrows = {name: others for name, others in arrows.items() if name not in leaves}


def test_solvers_know_nothing_of_diffusion() -> None:
    solvers = ROOT / "fpcore" / "inversion" / "solvers.py"
    assert not {name for name in imported(solvers) if name.startswith(("fpcore", "diffusers"))}


@pytest.mark.model
def test_fpcore_works_without_prefect_and_storage() -> None:
    """The mathematics imports where Prefect, fsspec and pyarrow cannot."""
    script = (
        "import sys\n"
        "for name in ('prefect', 'fsspec', 's3fs', 'pyarrow'): sys.modules[name] = None\n"
        "import fpcore.inversion.invert, fpcore.inversion.sample, fpcore.inversion.gaussian_mixture\n"
        "import fpcore.dehazing.dehaze, fpcore.editing.edit, fpcore.models.load\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_dehazing_by_default_imports_no_diffusion_libraries() -> None:
    """They cost ten times what one photograph does."""
    line = "import sys, tasks.steps; print(sorted({'diffusers', 'transformers', 'torchmetrics'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
