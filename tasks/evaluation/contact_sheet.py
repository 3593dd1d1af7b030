"""A sheet of edits to look at: a row a photo, a column a method, the prompts beneath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

HEAD, CAPTION, GAP = 20, 34, 4


@dataclass(frozen=True)
class SheetRow:
    """The pictures of one photo in the order of the heads, and its prompts."""

    pictures: Sequence[Image.Image]
    source: str
    target: str


def edit_sheet(heads: Sequence[str], rows: Sequence[SheetRow], tile: int = 160) -> Image.Image:
    """White paper with a head above each column and both prompts under each row. ``tile``: side of a picture, pixels."""
    height = tile + CAPTION + GAP
    canvas = Image.new("RGB", (len(heads) * (tile + GAP) - GAP, HEAD + len(rows) * height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for column, head in enumerate(heads):
        draw.text((column * (tile + GAP) + 2, 3), head, fill="black", font=font)
    for line, row in enumerate(rows):
        top = HEAD + line * height
        for column, picture in enumerate(row.pictures):
            small = picture.convert("RGB").resize((tile, tile), Image.Resampling.BICUBIC)
            canvas.paste(small, (column * (tile + GAP), top))
        draw.text((2, top + tile + 1), row.source, fill="dimgray", font=font)
        draw.text((2, top + tile + 16), f"-> {row.target}", fill="black", font=font)
    return canvas
