"""Pictures of reports and of Prefect's pages: the photos' own decoder, and a gap where one cannot be shown."""

from __future__ import annotations

import io
import subprocess
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.photos.formats import PhotoError
from tasks.photos.preview import preview
from tasks.report import pictures, thumbnails
from tests.tasks.photos import zoo
from tests.tasks.photos.test_metadata import BAD_TAGS, ELSEWHERE, jpeg_with, structure


def test_a_preview_is_upright_small_and_has_eight_bits() -> None:
    for name in ("jpeg exif", "png xmp", "tiff xmp, 16 bits", "avif"):
        shown = preview(ELSEWHERE[name], 40)
        assert (shown.mode, shown.size) == ("RGB", (40, 30))
        expected = np.asarray(Image.fromarray(zoo.PICTURE).resize((40, 30), Image.Resampling.LANCZOS))
        assert np.abs(np.asarray(shown).astype(int) - expected).mean() < 8


def test_no_program_is_started_for_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **options: pytest.fail("a program was started"))
    with pytest.raises(PhotoError, match="no picture file"):
        preview(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 60\nshowpage\n", 40)


@pytest.mark.parametrize(
    "error", [TypeError("an ICC tag of a wrong type"), KeyError(1), MemoryError(), OSError("gone")]
)
def test_whatever_is_wrong_with_a_picture_is_a_gap_in_the_report(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*given: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(pictures, "preview", broken)
    monkeypatch.setattr(pictures, "read_uri", lambda *given, **options: zoo.JPEG)
    monkeypatch.setattr(thumbnails, "_pair", broken)
    monkeypatch.setattr(thumbnails, "read_uri", lambda *given, **options: zoo.JPEG)
    assert pictures._read("file:///a.jpg") is None
    assert pictures._decode({"bytes": zoo.PNG}) is None

    class Store:
        def get(self, key: str) -> bytes:
            return zoo.JPEG

    class Ledger:
        store = Store()

    assert thumbnails._readable_pair(Ledger(), "file:///a.jpg", "images/a.jpg") is None  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BAD_TAGS)
def test_a_photo_with_a_badly_typed_tag_is_shown(name: str) -> None:
    data = jpeg_with((0xE1, b"Exif\0\0" + structure([BAD_TAGS[name]], "<")))
    buffer = io.BytesIO()
    preview(data, 40).save(buffer, "JPEG")
    assert buffer.getvalue()
