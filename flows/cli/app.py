"""The command ``fixpoint``. Exit codes: 0 all done, 2 usage, 3 incomplete, 4 too many photos failed."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer

from flows.cli import evaluate, inspect, reproduce, server
from flows.cli.dehazing import Chosen, takes_dehazing_options
from flows.cli.terminal import (
    INCOMPLETE,
    USAGE,
    AllowHttp,
    AllowRoot,
    AsJson,
    Execute,
    InversionMethod,
    MaxFailed,
    Metadata,
    Model,
    Output,
    Prompt,
    RetryFailed,
    Seed,
    Set,
    Source,
    Steps,
    Tolerance,
    Verbose,
    console,
    emit,
    plain_errors,
    progress_bar,
    reserve_stdout,
    settings_of,
    stop,
)
from tasks.text import plain, terminal

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Fixed-point diffusion inversion, editing and dehazing of photographs by the hundred thousand.",
)


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        typer.echo(f"fixpoint {version('fixpoint-diffusion')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Options of the command itself."""


def run(
    operation: str,
    source: str,
    output: str,
    settings: dict[str, Any],
    execution: dict[str, Any],
    as_json: bool,
    verbose: bool,
) -> None:
    """Run an operation in this process: plainly, or as a flow of Prefect (``flows.plain.wants_prefect``)."""
    if verbose:
        logging.basicConfig(level=logging.INFO)
    else:
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    with plain_errors(), progress_bar(shown=not as_json and console.is_terminal):
        from flows.execution import Execution, refuse_signature
        from flows.plain import run_here
        from tasks.config import RunConfig

        refuse_signature(source)
        config = RunConfig(operation=operation, **settings)  # type: ignore[arg-type]
        if config.pretrained_model_name_or_path != "builtin:haze" and not config.needs_model:
            typer.echo(
                f"{plain(config.pretrained_model_name_or_path)} is not used: --method {config.dehaze_variant} needs no "
                "diffusion model; --method words-by-place does",
                err=True,
            )
        summary = run_here(operation, source, output, config, Execution(**execution))
        report = find_report(output, execution)
    show_summary(operation, output, summary, as_json, report)


def find_report(output: str, execution: dict[str, Any]) -> str | None:
    """Where the report is, if the run was to write one and there is one; a run with nothing new leaves the former."""
    from tasks.report.place import REPORT
    from tasks.store.objects import open_store

    wanted = execution.get("report", True) and open_store(output).exists(REPORT)
    return f"{output.rstrip('/')}/{REPORT}" if wanted else None


def show_summary(operation: str, output: str, summary: dict[str, Any], as_json: bool, report: str | None) -> None:
    """What came of a run, apart from what is in the output in all."""
    if as_json:
        emit({"output": output, **summary})
        return
    if not summary["processed"] and summary["ok"] == summary["photos"]:
        console.print(f"Nothing new: all {summary['photos']} photos are done.", highlight=False)
    else:
        done = f"{summary['processed']} photos processed, {summary['processed_failed']} of them failed"
        console.print(
            f"{done if summary['processed'] else 'Nothing new'}; in all {summary['ok']} of {summary['photos']} are done, "
            f"{summary['failed']} failed.",
            highlight=False,
        )
    if summary.get("passed_over"):
        from tasks.photos.listing import PassedOver

        console.print(terminal(f"Passed over: {PassedOver(summary['passed_over'])}."), highlight=False)
    folder = output.rstrip("/")
    shown = terminal(folder)
    written = f"Latents and pictures of proof: {shown}/shards" if operation == "invert" else f"Pictures: {shown}/images"
    console.print(
        written + (f"   Report: {terminal(report)}" if report else ""),
        highlight=False,
        soft_wrap=True,
    )


@app.command()
@takes_dehazing_options
def dehaze(source: Source, output: Output, chosen: Chosen, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Dehaze photos at their own resolution: find where haze is and how dense, and take it off there."""
    run("dehaze", source, output, chosen.settings, chosen.execution, as_json, verbose)


@app.command()
def edit(
    source: Source,
    output: Output,
    prompt: Prompt = None,
    target: Annotated[str | None, typer.Option(help="what they are to show")] = None,
    model: Model = "builtin:scenes",
    guidance: Annotated[str, typer.Option(help="none, nti, npi, direct-inversion")] = "none",
    guidance_scale: Annotated[float, typer.Option(help="classifier-free guidance weight w")] = 7.5,
    method: InversionMethod = None,
    steps: Annotated[int, typer.Option(help="DDIM steps")] = 50,
    blend: Annotated[
        str | None, typer.Option(help="blend around a word of either prompt, 'cat dog'; the second is amplified")
    ] = None,
    tokens: Annotated[str | None, typer.Option(help="refine, replace (word by word) or remove")] = None,
    cross_replace: Annotated[float | None, typer.Option(help="share of the steps with the source's attention")] = None,
    self_replace: Annotated[float | None, typer.Option(help="the same for self-attention")] = None,
    mask: Annotated[
        str | None, typer.Option(help="a black and white picture: only what is white there changes")
    ] = None,
    reweight: Annotated[str | None, typer.Option(help="weights of target words, 'snow=2, sky=0.5'")] = None,
    metadata: Metadata = None,
    attention_maps: Annotated[
        bool, typer.Option(help="keep what each word attends to; see 'fixpoint attention'")
    ] = False,
    seed: Seed = None,
    max_failed: MaxFailed = 0.05,
    retry_failed: RetryFailed = None,
    set_: Set = None,
    execute: Execute = None,
    allow_http: AllowHttp = None,
    allow_root: AllowRoot = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Edit photos by words: Prompt-to-Prompt on fixed-point inversions.

    A manifest may give each photo its own prompt, target_prompt, blended_word, mask, seed, tokens, cross_replace,
    self_replace, blend_start, blend_threshold, amplify and reweight.
    """
    settings = settings_of(
        set_, pretrained_model_name_or_path=model, prompt=prompt, target_prompt=target, guidance=guidance,
        guidance_scale=guidance_scale, method=method, num_inference_steps=steps, blended_word=blend, tokens=tokens,
        cross_replace=cross_replace, self_replace=self_replace, reweight=reweight, attention_maps=attention_maps,
        seed=seed, mask=mask_runs(mask), metadata=metadata,
    )  # fmt: skip
    execution = settings_of(
        execute, max_failed_fraction=max_failed, retry_failed=retry_failed, allow_http=allow_http, allow_root=allow_root
    )
    run("edit", source, output, settings, execution, as_json, verbose)


@app.command()
def invert(
    source: Source,
    output: Output,
    prompt: Prompt = None,
    model: Model = "builtin:haze",
    method: InversionMethod = None,
    steps: Steps = None,
    tolerance: Tolerance = None,
    max_failed: MaxFailed = 0.05,
    retry_failed: RetryFailed = None,
    set_: Set = None,
    execute: Execute = None,
    allow_http: AllowHttp = None,
    allow_root: AllowRoot = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Invert photos to latents in the shards, with every step's losses; regenerates each as a proof."""
    settings = settings_of(
        set_,
        pretrained_model_name_or_path=model,
        prompt=prompt,
        method=method,
        num_inference_steps=steps,
        tolerance=tolerance,
    )
    execution = settings_of(
        execute, max_failed_fraction=max_failed, retry_failed=retry_failed, allow_http=allow_http, allow_root=allow_root
    )
    run("invert", source, output, settings, execution, as_json, verbose)


@app.command()
def restore(
    source: Source,
    output: Output,
    task: Annotated[str, typer.Option(help="what the photos lack: colorize, inpaint or super-resolution")],
    masks: Annotated[
        str | None, typer.Option(help="inpaint: folder of masks under the same names (or .png), white where to fill")
    ] = None,
    scale: Annotated[int | None, typer.Option(help="super-resolution: 2 or 4 times wider and higher")] = None,
    prompt: Annotated[str | None, typer.Option(help="words of the damage; left out: the task's own")] = None,
    target: Annotated[str | None, typer.Option(help="words of the whole; left out: the task's own")] = None,
    model: Model = "builtin:scenes",
    method: Annotated[str | None, typer.Option(help="how fixed points are found: certified, intra-path, …")] = None,
    steps: Steps = None,
    tolerance: Tolerance = None,
    noise_level: Annotated[
        float | None, typer.Option(help="noise over signal up to which a photo is inverted; left out: the task's own")
    ] = None,
    invention_map: Annotated[bool, typer.Option(help="keep a map of what was invented, in the rows")] = False,
    seed: Seed = None,
    metadata: Metadata = None,
    max_failed: MaxFailed = 0.05,
    retry_failed: RetryFailed = None,
    set_: Set = None,
    execute: Execute = None,
    allow_http: AllowHttp = None,
    allow_root: AllowRoot = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Add what photos lack (colours, the inside of holes, fine detail) and change nothing that they say.

    What is added is invented by the model: it looks likely, it is no evidence. Pictures say so in their metadata.
    """
    settings = settings_of(
        set_, task=task, mask_folder=masks, scale=scale, prompt=prompt, target_prompt=target, method=method,
        pretrained_model_name_or_path=model, num_inference_steps=steps, tolerance=tolerance, noise_level=noise_level,
        invention_map=invention_map or None, seed=seed, metadata=metadata,
    )  # fmt: skip
    execution = settings_of(
        execute, max_failed_fraction=max_failed, retry_failed=retry_failed, allow_http=allow_http, allow_root=allow_root
    )
    run("restore", source, output, settings, execution, as_json, verbose)


@app.command()
def retry(
    output: Output,
    code: Annotated[
        str,
        typer.Option(metavar="CODES", help="which: all, or error codes separated by commas, 'truncated,unreadable'"),
    ] = "all",
    max_failed: MaxFailed = 0.05,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="a setting that changes no result, as device=cpu or photo_timeout=900"),
    ] = None,
    execute: Execute = None,
    allow_http: AllowHttp = None,
    allow_root: AllowRoot = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Try failed photos of an output again, with its own settings and from its own plans; former rows stay.

    Works in this process. With several devices, or under Prefect, take the operation's own command with --retry-failed.
    """
    execution = settings_of(execute, max_failed_fraction=max_failed, allow_http=allow_http, allow_root=allow_root)
    settings = settings_of(set_)
    if verbose:
        logging.basicConfig(level=logging.INFO)
    with plain_errors(), progress_bar(shown=not as_json and console.is_terminal):
        from flows.execution import Execution
        from flows.retry import retry as try_again
        from tasks.store.error_codes import RetryRule, asked_codes
        from tasks.store.ledger import Ledger
        from tasks.store.objects import open_store

        rule = RetryRule(asked=asked_codes(code))
        summary = try_again(output, rule, settings, Execution(**execution))
        report = find_report(output, execution)
        operation = Ledger(open_store(output)).run().configuration["operation"]
    show_summary(operation, output, summary, as_json, report)


def mask_runs(picture: str | None) -> list[int] | None:
    """The runs of pixels that a mask picture lets change."""
    if picture is None:
        return None
    from tasks.photos.manifests import read_mask

    with plain_errors():
        try:
            return read_mask(picture)
        except OSError as error:
            stop(USAGE, f"the mask cannot be read: {error}")


app.add_typer(evaluate.app, name="evaluate")
app.command("reproduce")(reproduce.reproduce)
app.add_typer(inspect.app)
app.add_typer(server.app)


def main() -> None:
    """Entry point."""
    if "--json" in sys.argv[1:]:
        reserve_stdout()
    try:
        app()
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on where this one left off.")
        sys.exit(INCOMPLETE)


if __name__ == "__main__":
    main()
