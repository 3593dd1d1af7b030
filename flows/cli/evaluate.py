"""The commands ``fixpoint evaluate``: the field's protocols."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from flows.cli.terminal import AsJson, Model, Set, console, emit, plain_errors, progress_bar, settings_of

PIE_BENCH = {"operation": "edit", "seed": 1234, "timestep_spacing": "leading", "steps_offset": 0, "padding": "position"}
"""The protocol: one seed for all pictures, and the timesteps 0, 20, …, 980 of 50 steps."""
app = typer.Typer(no_args_is_help=True, help="The field's protocols as runs, with a table and a sheet.")


@app.command()
def dehaze(
    pairs: Annotated[list[str] | None, typer.Argument(help="folders with hazy/ and gt/ (RESIDE's layout)")] = None,
    output: Annotated[str, typer.Option(help="folder that runs, tables and sheets go to")] = "evaluation",
    methods: Annotated[
        str, typer.Option(help="comma-separated methods of dehazing; the first is also run on clear photographs")
    ] = "density,even-veil,dcp",
    real: Annotated[str | None, typer.Option(help="folder of real hazy photographs without truth")] = None,
    clear: Annotated[str | None, typer.Option(help="folder of clear photographs, to come back as they are")] = None,
    model: Model = "builtin:haze",
    set_: Set = None,
    as_json: AsJson = False,
) -> None:
    """Hazy pairs against their truth and the clear side against itself, real haze, clear photographs."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    with plain_errors(), progress_bar(shown=not as_json and console.is_terminal):
        from flows.evaluate import evaluate_dehaze, markdown
        from tasks.config import RunConfig

        config = RunConfig(**settings_of(set_, pretrained_model_name_or_path=model))
        chosen = methods.split(",")
        rows = evaluate_dehaze(pairs or [], output, config, chosen, real, clear)  # type: ignore[arg-type]  # the flow checks
    if as_json:
        emit(rows)
    else:
        typer.echo(markdown(rows))


@app.command()
def restore(
    clear: Annotated[str, typer.Argument(help="folder of photographs in colour: they are damaged, then restored")],
    output: Annotated[str, typer.Option(help="folder that runs, tables and sheets go to")] = "evaluation",
    tasks: Annotated[str, typer.Option(help="comma-separated tasks")] = "colorize,inpaint,super-resolution",
    side: Annotated[int, typer.Option(min=32, help="longest side of the photographs in pixels")] = 384,
    most: Annotated[int, typer.Option(min=1, help="photographs at most, taken evenly from the folder")] = 60,
    lpips: Annotated[str | None, typer.Option(help="SqueezeNet 1.1, safetensors, torchvision's names")] = None,
    model: Model = "builtin:scenes",
    set_: Set = None,
    as_json: AsJson = False,
) -> None:
    """Photographs made grey, given holes and reduced, then restored, beside plain ways to do it.

    Inpainting is measured inside the holes, which cover 5 to 15 %. Biharmonic filling needs scikit-image.
    """
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    with plain_errors(), progress_bar(shown=not as_json and console.is_terminal):
        from flows.evaluate import markdown
        from flows.evaluate_restore import evaluate_restore
        from tasks.config import RunConfig

        config = RunConfig(**settings_of(set_, pretrained_model_name_or_path=model))
        rows = evaluate_restore(clear, output, config, tasks.split(","), side, most, lpips)  # type: ignore[arg-type]  # the flow checks
    if as_json:
        emit(rows)
    else:
        typer.echo(markdown(rows))


@app.command("pie-bench")
def pie_bench(
    data: Annotated[str, typer.Argument(help="PIE-Bench: a folder with mapping_file.json and annotation_images/")],
    output: Annotated[str, typer.Argument(help="folder that runs, tables and the sheet go to")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="built-in, diffusers folder or hub id")
    ] = "builtin:scenes",
    methods: Annotated[
        str, typer.Option(help="comma-separated inversion methods")
    ] = "ddim,intra-path,inter-path,certified",
    guidance: Annotated[str, typer.Option(help="comma-separated: none, nti, npi, direct-inversion")] = "none",
    guidance_scale: Annotated[float, typer.Option(help="classifier-free guidance weight w")] = 7.5,
    steps: Annotated[int, typer.Option(help="DDIM steps")] = 50,
    lpips: Annotated[str | None, typer.Option(help="SqueezeNet 1.1, safetensors, torchvision's names")] = None,
    dino: Annotated[str | None, typer.Option(help="folder of facebook/dino-vitb8")] = None,
    clip: Annotated[str | None, typer.Option(help="folder of openai/clip-vit-large-patch14")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="any other setting, as name=value")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object for machines, no progress")] = False,
) -> None:
    """The seven measures of PIE-Bench for every method and guidance mode, beside the published figures."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    with plain_errors(), progress_bar(shown=not as_json and console.is_terminal):
        from flows.evaluate_pie_bench import evaluate_pie_bench, markdown
        from tasks.config import RunConfig

        given = settings_of(set_, pretrained_model_name_or_path=model, guidance_scale=guidance_scale)
        config = RunConfig(**{**PIE_BENCH, "num_inference_steps": steps, **given})
        judges = {"lpips": lpips, "dino": dino, "clip": clip}
        table = evaluate_pie_bench(data, output, config, methods.split(","), guidance.split(","), judges)
    if as_json:
        emit(table)
    else:
        typer.echo(markdown(table))
