"""The commands around editing: ``fixpoint evaluate pie-bench`` and ``fixpoint attention``."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer


def register(app: typer.Typer, evaluations: typer.Typer) -> None:
    """Add the commands to the program and to its evaluations."""
    evaluations.command("pie-bench")(pie_bench)
    app.command()(attention)


def mask_runs(picture: str | None) -> list[int] | None:
    """The runs of pixels that a mask picture lets change."""
    if picture is None:
        return None
    from flows.cli import USAGE, plain_errors, stop
    from tasks.sources import read_mask

    with plain_errors():
        try:
            return read_mask(picture)
        except OSError as error:
            stop(USAGE, f"the mask cannot be read: {error}")


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
    from flows.cli import console, plain_errors, progress_bar, settings_of

    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    with plain_errors(), progress_bar(shown=not as_json and console.is_terminal):
        from flows.evaluate_pie_bench import evaluate_pie_bench, markdown
        from tasks.config import RunConfig

        given = settings_of(set_, pretrained_model_name_or_path=model, guidance_scale=guidance_scale)
        config = RunConfig(**{"operation": "edit", "seed": 1234, "num_inference_steps": steps, **given})
        judges = {"lpips": lpips, "dino": dino, "clip": clip}
        table = evaluate_pie_bench(data, output, config, methods.split(","), guidance.split(","), judges)
    typer.echo(json.dumps(table) if as_json else markdown(table))


def attention(
    output: Annotated[str, typer.Argument(help="output of an edit that kept its --attention-maps")],
    folder: Annotated[str, typer.Argument(help="folder that the pictures go to, one PNG a photo")],
) -> None:
    """Write what each word of the prompts attends to as pictures."""
    from flows.cli import plain_errors

    with plain_errors():
        from tasks.attention_export import export_attention

        typer.echo(f"{export_attention(output, folder)} pictures in {folder}")
