"""What a user of the library imports: lazily, by name, with types."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fpcore

ROOT = Path(__file__).parent.parent


def python(script: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_nothing_is_imported_before_it_is_asked_for() -> None:
    script = (
        "import sys, fpcore\n"
        "assert not {'torch', 'diffusers'} & set(sys.modules)\n"
        "assert 'invert' in dir(fpcore)\n"
        "fpcore.invert\n"
        "assert 'torch' in sys.modules\n"
        "assert 'diffusers' not in sys.modules\n"
        "print('ok')"
    )
    assert python(script) == "ok\n"


@pytest.mark.parametrize("name", fpcore.__all__)
def test_every_public_name_comes_from_its_module(name: str) -> None:
    assert getattr(fpcore, name) is not None


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING, the table of homes and ``__all__`` agree."""
    tree = ast.parse((ROOT / "fpcore" / "__init__.py").read_text())
    shown = {
        (node.module, alias.name)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found = {(module, name) for module, names in fpcore._HOMES.items() for name in names}
    assert shown == found
    assert sorted(name for _, name in found) == sorted(fpcore.__all__)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'dehase'"):
        _ = fpcore.dehase


def test_packages_say_that_they_are_typed() -> None:
    assert all((ROOT / package / "py.typed").is_file() for package in ("fpcore", "tasks", "flows"))
