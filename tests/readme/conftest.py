"""A folder to run the README's blocks in."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.photographs import hazy_photographs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Path:
    """A folder with two photographs in photos/."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "photos").mkdir()
    for name in ("china", "rocket"):
        Image.fromarray(hazy_photographs()[name]).save(folder / "photos" / f"{name}.jpg", quality=95)
    return folder
