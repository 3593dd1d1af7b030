"""Draw the pictures of docs/DEHAZING.md: photographs, what is found of haze in them, and what comes back.

python -m benchmarks.dehazing_figure PHOTO… --into docs/figures/dehazing.jpg
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fpcore.dehazing.gentle import as_judged
from fpcore.dehazing.haze_estimate import estimate_haze, view_photograph
from fpcore.dehazing.quality_gate import judge_estimate
from fpcore.dehazing.restore import plan_restoration, restore, restore_picture
from tasks.shard.density_picture import density_picture

WIDTH, GAP, CAPTION = 380, 6, 18


def row(path: Path) -> list[tuple[Image.Image, str]]:
    """The photograph, its density of haze with a legend, and the result, each ``WIDTH`` pixels wide, with what is said below."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    view = view_photograph(pixels)
    estimate = estimate_haze(view)
    plan = plan_restoration(estimate, view.texture)
    verdict = judge_estimate(estimate, restore_picture(plan, estimate.picture).clamp(0, 1))
    found = Image.open(io.BytesIO(density_picture(estimate.density)))
    result = restore(as_judged(plan, view, verdict), pixels, verdict.strength)
    pictures = (Image.fromarray(pixels), found, Image.fromarray(result))
    said = ("as taken", "density of haze", verdict.name)
    return [(_of_width(picture), text) for picture, text in zip(pictures, said, strict=True)]


def _of_width(picture: Image.Image) -> Image.Image:
    return picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)


def sheet(rows: list[list[tuple[Image.Image, str]]]) -> Image.Image:
    """Rows below each other, a caption below each picture."""
    heights = [max(picture.height for picture, _ in cells) + CAPTION for cells in rows]
    canvas = Image.new("RGB", (3 * (WIDTH + GAP) - GAP, sum(heights)), "white")
    draw, font, y = ImageDraw.Draw(canvas), ImageFont.load_default(13), 0
    for cells, height in zip(rows, heights, strict=True):
        for i, (picture, text) in enumerate(cells):
            canvas.paste(picture, (i * (WIDTH + GAP), y))
            draw.text((i * (WIDTH + GAP) + 2, y + picture.height + 1), text, fill="black", font=font)
        y += height
    return canvas


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", nargs="+", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    args = parser.parse_args()
    sheet([row(path) for path in args.photographs]).save(args.into, quality=88)


if __name__ == "__main__":
    main()
