"""``make demo``: dehaze real photographs with the built-in model and show where the results are.

Without photographs of your own it takes those that scikit-image and scikit-learn ship and renders haze on them, so that
the report can say how close each result comes to the clear photograph.
"""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from flows.cli.app import run
from fpcore.builtin.demo_photographs import write_hazy
from tasks.analytics.committed import row_files
from tasks.text import terminal

DEFAULT = "demo/photos"


GAINED = {"PSNR hazy": "metrics['psnr_input']", "PSNR dehazed": "metrics['psnr_output']"}, "To the clear photograph, dB"
SEEN = (
    {"haze": "metrics['haze_amount']", "times as clear": "coalesce(metrics['clearer'], 1)"},
    "Density of haze, 0 to 1, and gain in local contrast of the veiled part",
)


def show_results(output: str, measures: dict[str, str], title: str) -> None:
    """Two measures of each photo, named by their column's title, straight from the committed shards."""
    first, second = measures.values()
    rows = duckdb.execute(
        f"""SELECT key, {first}, {second}, verdict, nfe
        FROM read_parquet(?, union_by_name = true) WHERE status = 'ok' ORDER BY key""",  # noqa: S608
        [row_files(output)],
    ).fetchall()
    table = Table("photo", *measures, "verdict", "evaluations", title=title)
    for key, *values, verdict, nfe in rows:
        table.add_row(terminal(key), *(f"{x:.3g}" for x in values), verdict, str(nfe))
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
            write_hazy(Path(source), Path(reference))
    execution = {"reference": reference, "max_failed_fraction": 1.0, "prefect": True}
    try:
        run("dehaze", source, output, {}, execution, as_json=False, verbose=False)
    except typer.Exit as stopped:  # why has been said
        sys.exit(stopped.exit_code)
    show_results(output, *(SEEN if reference is None else GAINED))


if __name__ == "__main__":
    main()
