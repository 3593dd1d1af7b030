"""``make demo``: dehaze real photographs with the built-in model and show where the results are.

Without photographs of your own it takes those that scikit-image and scikit-learn ship and renders haze on them, so that
the report can say how close each result comes to the clear photograph.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from flows.cli import run

DEFAULT = "demo/photos"
AMOUNTS = (0.35, 0.5, 0.6)


def clear_photographs() -> Iterator[tuple[str, np.ndarray]]:
    """Real photographs that come with scikit-image and scikit-learn: (name, (H, W, 3) uint8)."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    yield "astronaut", data.astronaut()
    yield "chelsea", data.chelsea()
    yield "coffee", data.coffee()
    yield "rocket", data.rocket()
    yield "china", load_sample_image("china.jpg")
    yield "flower", load_sample_image("flower.jpg")


GAINED = {"PSNR hazy": "metrics['psnr_input']", "PSNR dehazed": "metrics['psnr_output']"}, "To the clear photograph, dB"
SEEN = (
    {"haze seen": "metrics['haze_seen']", "applied": "strength"},
    "Haze seen, 0 to 1, and share of the edit applied",
)


def make_photos(folder: Path, reference: Path) -> None:
    """Write the clear photographs to ``reference`` and hazy renderings of them to ``folder``."""
    from fpcore.builtin.rendered_haze import render_haze

    generator = torch.Generator().manual_seed(4)
    for i, (name, pixels) in enumerate(clear_photographs()):
        clear = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255
        hazy = render_haze(clear, torch.tensor([AMOUNTS[i % len(AMOUNTS)]]), generator).image[0]
        for where, picture in ((folder, hazy), (reference, clear[0])):
            where.mkdir(parents=True, exist_ok=True)
            array = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(array).save(where / f"{name}.png")


def show_results(output: str, measures: dict[str, str], title: str) -> None:
    """Two measures of each photo, named by their column's title, straight from the committed shards."""
    first, second = measures.values()
    rows = duckdb.execute(
        f"""SELECT key, {first}, {second}, verdict, nfe
        FROM read_parquet('{output}/shards/*.parquet') WHERE status = 'ok' ORDER BY key"""  # noqa: S608
    ).fetchall()
    table = Table("photo", *measures, "verdict", "evaluations", title=title)
    for key, *values, verdict, nfe in rows:
        table.add_row(key, *(f"{x:.3g}" for x in values), verdict, str(nfe))
    if rows:
        table.add_section()
        table.add_row("mean", *(f"{np.mean([row[i] for row in rows]):.3g}" for i in (1, 2)), "", "")
    Console().print(table)


def main() -> None:
    """Entry point: ``python -m flows.demo SOURCE OUTPUT``."""
    source, output = sys.argv[1:3]
    reference = None
    if source == DEFAULT:
        reference = "demo/clear"
        if not Path(source).is_dir():
            make_photos(Path(source), Path(reference))
    run(
        "dehaze", source, output, {}, {"reference": reference, "max_failed_fraction": 1.0}, as_json=False, verbose=False
    )
    show_results(output, *(SEEN if reference is None else GAINED))


if __name__ == "__main__":
    main()
