"""What may be said of a dehazing run: the same options for the command, for serving it and for deploying it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, NamedTuple

import typer

from flows.cli.terminal import (
    AllowHttp,
    AllowRoot,
    Execute,
    Metadata,
    RetryFailed,
    Seed,
    Set,
    Steps,
    Tolerance,
    settings_of,
)


class Chosen(NamedTuple):
    """What was said: fields of ``RunConfig`` and of ``Execution``."""

    settings: dict[str, Any]
    execution: dict[str, Any]


def dehazing(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            show_default="builtin:haze",
            help="builtin:haze, builtin:scenes, a diffusers folder, or a hub id",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="of dehazing: density, words-by-place, density+words, regenerate, fixed-point, nti, nti+fixed-point, "
            "prior-weighted, even-veil, dcp (the dark channel prior)",
        ),
    ] = None,
    variant: Annotated[str | None, typer.Option("--variant", hidden=True, help="former name of --method")] = None,
    inversion: Annotated[str | None, typer.Option(help="inversion method: certified, intra-path, …")] = None,
    steps: Steps = None,
    tolerance: Tolerance = None,
    strength: Annotated[float | None, typer.Option(help="fraction of the edit to apply, 0 to 1")] = None,
    haze_weights: Annotated[
        str | None, typer.Option(help="research, or free: trained on free photographs alone, for any purpose")
    ] = None,
    white_balance: Annotated[bool, typer.Option(help="take the airlight's cast of colour off as well")] = False,
    attention_maps: Annotated[
        bool, typer.Option(help="keep the map of haze density; see 'fixpoint attention'")
    ] = False,
    masks: Annotated[
        str | None, typer.Option(help="folder of region masks under the same names (or .png): white is dehazed")
    ] = None,
    depth: Annotated[
        str | None, typer.Option(help="folder of depth maps under the same names (or .png), white far: prior-weighted")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="images in flight on the device; 0 = automatic")] = None,
    shard_size: Annotated[int | None, typer.Option(help="photos in one shard")] = None,
    seed: Seed = None,
    metadata: Metadata = None,
    reference: Annotated[
        str | None, typer.Option(help="folder of ground truth under the same names: PSNR, SSIM")
    ] = None,
    max_failed: Annotated[
        float | None,
        typer.Option(show_default="0.05", help="fraction of failed photos above which the run fails"),
    ] = None,
    retry_failed: RetryFailed = None,
    report: Annotated[
        bool | None, typer.Option("--report/--no-report", show_default="report", help="write report/ at the end")
    ] = None,
    set_: Set = None,
    execute: Execute = None,
    allow_http: AllowHttp = None,
    allow_root: AllowRoot = None,
) -> Chosen:
    """What is given, by the names of the configuration."""
    settings = settings_of(
        set_, pretrained_model_name_or_path=model, dehaze_variant=method or variant, method=inversion,
        num_inference_steps=steps, tolerance=tolerance, strength=strength, batch_size=batch_size, shard_size=shard_size,
        seed=seed, mask_folder=masks, depth_folder=depth, metadata=metadata, white_balance=white_balance or None,
        attention_maps=attention_maps or None, haze_weights=haze_weights,
    )  # fmt: skip
    execution = settings_of(
        execute, reference=reference, max_failed_fraction=max_failed, retry_failed=retry_failed, report=report,
        allow_http=allow_http, allow_root=allow_root,
    )  # fmt: skip
    return Chosen(settings, execution)


def takes_dehazing_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of ``dehazing`` in place of its argument ``chosen``, which is what came of them."""
    shared = inspect.signature(dehazing, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True)

    @wraps(command)
    def with_options(**given: Any) -> None:
        chosen = dehazing(**{name: given.pop(name) for name in shared})
        command(**given, chosen=chosen)

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for place in own.parameters.values()
        for parameter in (shared.values() if place.name == "chosen" else [place])
    ]
    with_options.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options
