"""``fixpoint reproduce``: each figure and table of the source paper by one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli.terminal import AsJson, Output, console, plain_errors, progress_bar
from tasks.text import terminal

if TYPE_CHECKING:  # pydantic and the store take a second to import
    from flows.execution import Execution
    from tasks.config import DehazingMethod, RunConfig

What = Literal["fig1", "fig2", "fig6", "table1", "table2"]
INVERSION_METHODS = ("ddim", "intra-path", "inter-path", "certified")
DEHAZING_METHODS: tuple[DehazingMethod, ...] = (
    "nti",
    "nti+fixed-point",
    "fixed-point",
    "prior-weighted",
    "density",
    "dcp",
)
PUBLISHED_DEHAZING = {"dcp": (19.13, 0.815), "AOD-Net": (20.29, 0.877), "FFA-Net": (33.57, 0.984)}
"""PSNR, dB, and SSIM on SOTS-outdoor as the literature prints them; not measured here."""


def reproduce(
    what: Annotated[What, typer.Argument(help="fig1, fig2, fig6: convergence; table1: editing; table2: dehazing")],
    output: Output,
    data: Annotated[
        str | None, typer.Option(help="photographs, PIE-Bench or RESIDE; left out: free pictures that come along")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="built-in, diffusers folder or hub id")] = None,
    photos: Annotated[int, typer.Option(min=1, help="photographs looked at, where the data are not your own")] = 4,
    steps: Annotated[
        int | None, typer.Option(help="DDIM steps; left out: 50, and 10 for tables on a built-in model")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the perturbations")] = 0,
    as_json: AsJson = False,
) -> None:
    """A figure or table of the paper, on the built-in models or on your own weights."""
    with plain_errors():
        if what.startswith("fig"):
            result: Any = _figure(what, output, data, model or "builtin:haze", photos, steps or 50, seed)
        else:
            chosen = model or ("builtin:scenes" if what == "table1" else "builtin:haze")
            with progress_bar(shown=not as_json and console.is_terminal):
                table = _editing if what == "table1" else _dehazing
                result = table(output, data, chosen, photos, steps or (10 if chosen.startswith("builtin:") else 50))
    typer.echo(json.dumps(result) if as_json else result if isinstance(result, str) else "\n".join(result))


def _figure(what: str, output: str, data: str | None, model: str, photos: int, steps: int, seed: int) -> list[str]:
    from tasks.evaluation.reproduce import reproduce_figure

    return reproduce_figure(
        what, output, source=data, pretrained_model_name_or_path=model, num_inference_steps=steps,  # type: ignore[arg-type]
        photos=photos, seed=seed, on_progress=_say,
    )  # fmt: skip


def _editing(output: str, data: str | None, model: str, photos: int, steps: int) -> str:
    """PIE-Bench's table beside the published figures, and a sheet of edits."""
    from flows.cli.evaluate import PIE_BENCH
    from flows.evaluate_pie_bench import markdown, measure_editing
    from tasks.config import RunConfig
    from tasks.evaluation.pie_bench import measure_run
    from tasks.evaluation.sample_data import write_edits

    source = data or write_edits(Path(output) / "data", photos)
    config = RunConfig(**{**PIE_BENCH, "pretrained_model_name_or_path": model, "num_inference_steps": steps})
    return markdown(
        measure_editing(
            source, output, config, INVERSION_METHODS, ("none",), {}, run=_run, measure=measure_run.fn, on_measured=_say
        )
    )


def _dehazing(output: str, data: str | None, model: str, photos: int, steps: int) -> str:
    """The paper's dehazing methods beside ours and the dark channel prior, the published figures, and a sheet."""
    from flows.evaluate import markdown, measure_dehazing
    from tasks.config import RunConfig
    from tasks.evaluation.sample_data import write_haze

    source = data or write_haze(Path(output) / "data", photos)
    config = RunConfig(pretrained_model_name_or_path=model, num_inference_steps=steps)
    rows = measure_dehazing([source], output, config, DEHAZING_METHODS, clear_sides=False, run=_run, on_measured=_say)
    empty = dict.fromkeys(rows[0])
    published = [
        {**empty, "run": f"{name} (published, SOTS-outdoor)", "psnr_after": psnr, "ssim_after": ssim}
        for name, (psnr, ssim) in PUBLISHED_DEHAZING.items()
    ]
    text = markdown([*rows, *published])
    (Path(output) / "table.md").write_text(text)
    return text


def _run(source: str, output: str, config: RunConfig, execution: Execution) -> None:
    """A run without Prefect: what a table needs is over in minutes, and nobody looks at its pages."""
    from flows.plain import run_here

    run_here(config.operation, source, output, config, execution.model_copy(update={"prefect": False}))


def _say(line: str) -> None:
    console.print(terminal(line), highlight=False, soft_wrap=True)
