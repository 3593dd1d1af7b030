"""The command ``fixpoint``. Exit codes: 0 all done, 2 usage, 3 incomplete, 4 too many photos failed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from flows import orchestration
from flows.editing_cli import mask_runs, register

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Fixed-point diffusion inversion, editing and dehazing of photographs by the hundred thousand.",
)
app.add_typer(orchestration.app)
console = Console(stderr=True)
USAGE, INCOMPLETE, TOO_MANY = 2, 3, 4

Source = Annotated[
    str, typer.Argument(help="folder, glob, s3:// prefix, or manifest (CSV, JSONL, Parquet, PIE-Bench JSON)")
]
Output = Annotated[str, typer.Argument(help="folder or s3:// prefix that the results go to")]
Model = Annotated[
    str, typer.Option("--model", "-m", help="builtin:haze, builtin:scenes, a diffusers folder, or a hub id")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="any other setting, as name=value; see 'fixpoint settings'")
]
Execute = Annotated[
    list[str] | None,
    typer.Option("--execution", help="how it is carried out, as name=value: runner=process workers=4 …"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object for machines, no progress")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="show the flow's log")]


def stop(code: int, message: str) -> NoReturn:
    """Say what is wrong in one plain sentence and leave."""
    console.print(f"[bold red]Error:[/] {message}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors that users can mend become a sentence and an exit code."""
    from flows.execution import Incomplete, TooManyFailures
    from tasks.store.errors import StoreError

    try:
        yield
    except ValidationError as error:
        stop(USAGE, "; ".join(f"{'.'.join(map(str, e['loc'])) or 'setting'}: {e['msg']}" for e in error.errors()))
    except Incomplete as error:
        stop(INCOMPLETE, str(error))
    except TooManyFailures as error:
        stop(TOO_MANY, str(error))
    except (StoreError, ValueError) as error:
        stop(USAGE, str(error))


def settings_of(pairs: list[str] | None, **given: Any) -> dict[str, Any]:
    """The options given, and ``name=value`` pairs with values read as JSON where they are JSON."""
    settings = {name: value for name, value in given.items() if value is not None}
    for pair in pairs or []:
        name, separator, text = pair.partition("=")
        if not separator:
            stop(USAGE, f"--set and --execution take name=value, not {pair!r}")
        try:
            settings[name.replace("-", "_")] = json.loads(text)
        except ValueError:
            settings[name.replace("-", "_")] = text
    return settings


@contextmanager
def progress_bar(shown: bool) -> Iterator[None]:
    """A bar that follows this process's counts until the block ends."""
    from threading import Event, Thread

    from tasks.progress import PROGRESS

    PROGRESS.clear()
    if not shown:
        yield
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    finished = Event()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def follow() -> None:
            while not finished.wait(0.2):
                expected, failed = PROGRESS.get("expected"), PROGRESS.get("failed")
                note = f"photos, [red]{failed} failed[/]" if failed else "photos"
                bar.update(task, completed=PROGRESS.get("photos"), total=expected or None, description=note)

        thread = Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()


def run(
    operation: str,
    source: str,
    output: str,
    settings: dict[str, Any],
    execution: dict[str, Any],
    as_json: bool,
    verbose: bool,
) -> None:
    """Run a flow in this process, with an embedded Prefect unless PREFECT_API_URL names a server."""
    if not verbose:
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    with plain_errors(), progress_bar(shown=not as_json and console.is_terminal):
        from flows.execution import Execution
        from flows.operations import FLOWS
        from tasks.config import RunConfig

        config = RunConfig(operation=operation, **settings)  # type: ignore[arg-type]
        summary = FLOWS[operation](source, output, config, Execution(**execution))
    show_summary(output, summary, as_json)


def show_summary(output: str, summary: dict[str, Any], as_json: bool) -> None:
    """What came of a run."""
    if as_json:
        typer.echo(json.dumps({"output": output, **summary}))
        return
    if not summary["processed"]:
        console.print(f"Nothing new: all {summary['planned']} photos are done.", highlight=False)
    else:
        console.print(
            f"[bold]{summary['processed']}[/] photos processed, {summary['ok']} of {summary['planned']} fine in all, "
            f"{summary['failed']} failed.",
            highlight=False,
        )
    console.print(f"Pictures: {output}/images   Report: {output}/report/index.html", highlight=False, soft_wrap=True)


@app.command()
def dehaze(
    source: Source,
    output: Output,
    model: Model = "builtin:haze",
    variant: Annotated[
        str | None, typer.Option(help="graded, regenerate, fixed-point, nti, nti+fixed-point, prior-weighted")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--method", help="an inversion method, or dcp: the dark channel prior")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="DDIM steps")] = None,
    tolerance: Annotated[float | None, typer.Option(help="RMS at which a fixed point counts as found")] = None,
    strength: Annotated[float | None, typer.Option(help="share of the edit to apply, 0 to 1")] = None,
    masks: Annotated[
        str | None, typer.Option(help="folder of region masks under the same names (or .png): white is dehazed")
    ] = None,
    depth: Annotated[
        str | None, typer.Option(help="folder of depth maps under the same names (or .png), white far: prior-weighted")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="images in flight on the device; 0 = automatic")] = None,
    shard_size: Annotated[int | None, typer.Option(help="photos in one shard")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of everything drawn")] = None,
    reference: Annotated[
        str | None, typer.Option(help="folder of ground truth under the same names: PSNR, SSIM")
    ] = None,
    max_failed: Annotated[float, typer.Option(help="share of failed photos above which the run fails")] = 0.05,
    report: Annotated[bool, typer.Option(help="write report/ at the end")] = True,
    set_: Set = None,
    execute: Execute = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Dehaze photos: invert each under haze, regenerate it clear, at the photo's own resolution."""
    if baseline == "dcp":
        variant, baseline = "dcp", None
    settings = settings_of(
        set_, pretrained_model_name_or_path=model, dehaze_variant=variant, method=baseline, num_inference_steps=steps,
        tolerance=tolerance, strength=strength, batch_size=batch_size, shard_size=shard_size, seed=seed,
        mask_folder=masks, depth_folder=depth,
    )  # fmt: skip
    execution = settings_of(execute, reference=reference, max_failed_fraction=max_failed, report=report)
    run("dehaze", source, output, settings, execution, as_json, verbose)


@app.command()
def edit(
    source: Source,
    output: Output,
    prompt: Annotated[str | None, typer.Option(help="what the photos show; a manifest may say it per photo")] = None,
    target: Annotated[str | None, typer.Option(help="what they are to show")] = None,
    model: Model = "builtin:scenes",
    guidance: Annotated[str, typer.Option(help="none, nti, npi, direct-inversion")] = "none",
    guidance_scale: Annotated[float, typer.Option(help="classifier-free guidance weight w")] = 7.5,
    method: Annotated[str | None, typer.Option(help="inversion method")] = None,
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
    attention_maps: Annotated[
        bool, typer.Option(help="keep what each word attends to; see 'fixpoint attention'")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="seed of everything drawn")] = None,
    max_failed: Annotated[float, typer.Option(help="share of failed photos above which the run fails")] = 0.05,
    set_: Set = None,
    execute: Execute = None,
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
        seed=seed, mask=mask_runs(mask),
    )  # fmt: skip
    execution = settings_of(execute, max_failed_fraction=max_failed)
    run("edit", source, output, settings, execution, as_json, verbose)


@app.command()
def invert(
    source: Source,
    output: Output,
    prompt: Annotated[str | None, typer.Option(help="what the photos show; a manifest may say it per photo")] = None,
    model: Model = "builtin:haze",
    method: Annotated[str | None, typer.Option(help="inversion method")] = None,
    steps: Annotated[int | None, typer.Option(help="DDIM steps")] = None,
    tolerance: Annotated[float | None, typer.Option(help="RMS at which a fixed point counts as found")] = None,
    max_failed: Annotated[float, typer.Option(help="share of failed photos above which the run fails")] = 0.05,
    set_: Set = None,
    execute: Execute = None,
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
    execution = settings_of(execute, max_failed_fraction=max_failed)
    run("invert", source, output, settings, execution, as_json, verbose)


evaluations = typer.Typer(no_args_is_help=True, help="The field's protocols as runs, with a table and a sheet.")
app.add_typer(evaluations, name="evaluate")


register(app, evaluations)


@evaluations.command()
def reside(
    data: Annotated[str, typer.Argument(help="folder with hazy/ and gt/ (RESIDE SOTS)")],
    output: Output,
    variants: Annotated[
        str, typer.Option(help="comma-separated; the first is also run on the clear side")
    ] = "graded,dcp",
    real: Annotated[str | None, typer.Option(help="folder of real hazy photographs without truth")] = None,
    model: Model = "builtin:haze",
    set_: Set = None,
    as_json: AsJson = False,
) -> None:
    """Hazy pairs against their truth, the clear side against itself, the round trip, real haze."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    with plain_errors(), progress_bar(shown=not as_json and console.is_terminal):
        from flows.evaluate import evaluate_reside, markdown
        from tasks.config import RunConfig

        config = RunConfig(**settings_of(set_, pretrained_model_name_or_path=model))
        rows = evaluate_reside(data, output, config, variants.split(","), real)
    typer.echo(json.dumps(rows) if as_json else markdown(rows))


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(help="built-in, folder or hub id")] = "builtin:haze", as_json: AsJson = False
) -> None:
    """Does this model load, what is it, what does it cost, what to change."""
    from dataclasses import asdict

    from fpcore.models.doctor import examine

    found = asdict(examine(model))
    if as_json:
        typer.echo(json.dumps(found, default=str))
    else:
        table = Table(show_header=False, box=None)
        for name, value in found.items():
            table.add_row(
                name.replace("_", " "), "\n".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            )
        Console().print(table)
    raise typer.Exit(0 if found.get("loads") else USAGE)


@app.command()
def analyze(
    source: Source,
    output: Output,
    model: Model = "builtin:haze",
    steps: Annotated[int, typer.Option(help="DDIM steps")] = 50,
    photos: Annotated[int, typer.Option(help="photos looked at")] = 8,
    seed: Annotated[int, typer.Option(help="seed of the perturbations")] = 0,
) -> None:
    """How the fixed-point iteration behaves on a model: rates, trajectories, intra against inter; figures and Parquet."""
    from tasks.analyze import analyze as run_analysis

    with plain_errors():
        typer.echo(
            json.dumps(
                run_analysis(
                    source,
                    output,
                    pretrained_model_name_or_path=model,
                    num_inference_steps=steps,
                    photos=photos,
                    seed=seed,
                )
            )
        )


@app.command()
def status(output: Output, as_json: AsJson = False) -> None:
    """How far a run has come, from its commits alone."""
    from tasks.store.ledger import Ledger
    from tasks.store.objects import open_store

    with plain_errors():
        counts = Ledger(open_store(output)).status()
    if as_json:
        typer.echo(json.dumps({**vars(counts), "complete": counts.complete}))
    else:
        table = Table(show_header=False, box=None)
        for name, value in vars(counts).items():
            table.add_row(name.replace("_", " "), str(value))
        Console().print(table)
    raise typer.Exit(0 if counts.complete else INCOMPLETE)


@app.command()
def verify(output: Output, as_json: AsJson = False) -> None:
    """Read everything back and name whatever is missing, double or damaged."""
    from tasks.store.ledger import Ledger
    from tasks.store.objects import open_store
    from tasks.store.verify import verify as find_problems

    with plain_errors():
        problems = list(find_problems(Ledger(open_store(output))))
    if as_json:
        typer.echo(json.dumps({"problems": [vars(p) for p in problems]}))
    for problem in [] if as_json else problems:
        Console().print(f"[red]{problem}[/]", highlight=False)
    if not problems and not as_json:
        Console().print("Everything planned is there, once, and undamaged.")
    raise typer.Exit(INCOMPLETE if problems else 0)


@app.command()
def gc(output: Output, delete: Annotated[bool, typer.Option(help="remove them; otherwise only list")] = False) -> None:
    """List, or remove, what crashed attempts left behind. Never while a run writes there."""
    from tasks.store.ledger import Ledger
    from tasks.store.objects import open_store
    from tasks.store.verify import gc as collect

    with plain_errors():
        leftovers = collect(Ledger(open_store(output)), dry_run=not delete)
    for entry in leftovers:
        typer.echo(entry.key)
    console.print(
        f"{len(leftovers)} leftovers {'removed' if delete else 'found; --delete removes them'}.", highlight=False
    )


@app.command()
def plan(
    source: Source,
    output: Output,
    like: Annotated[str | None, typer.Option(help="output of a run to take time and storage a photo from")] = None,
    photos: Annotated[int | None, typer.Option(min=1, help="size for so many photos instead of those there")] = None,
    gpus: Annotated[str, typer.Option(help="comma-separated numbers of GPUs to size for")] = "1",
    as_json: AsJson = False,
) -> None:
    """Dry run: what a run would do, without doing it; with --like also how long it takes and what it stores."""
    from tasks.estimate import estimate, measure, sizing

    with plain_errors():
        answer = estimate(source, output)
        rates = measure(like) if like else None
        devices = [int(n) for n in gpus.split(",")]
    rows = sizing(rates, photos or answer["photos"], devices) if rates else []
    if as_json:
        typer.echo(json.dumps({**answer, **({"sizing": rows} if rows else {})}))
        return
    table = Table(show_header=False, box=None)
    for name, value in answer.items():
        table.add_row(name.replace("_", " "), str(value))
    Console().print(table)
    if rows:
        sizes = Table(*(name.replace("_", " ") for name in rows[0]))
        for row in rows:
            sizes.add_row(*(f"{value:,}" for value in row.values()))
        Console().print(sizes)


@app.command()
def aggregate(
    outputs: Annotated[list[str], typer.Argument(help="outputs of runs")],
    destination: Annotated[str, typer.Option(help="where the tables go")],
) -> None:
    """Analytics tables (steps, images, runs, summary) from committed shards; a second call reads only what is new."""
    from tasks.aggregate import aggregate as make_tables

    with plain_errors():
        summary = make_tables(outputs, destination)
    typer.echo(json.dumps(vars(summary), default=str))


@app.command()
def report(
    outputs: Annotated[list[str], typer.Argument(help="one output, or several to put side by side")],
    destination: Annotated[str | None, typer.Option(help="where report/ goes; the first output if left out")] = None,
) -> None:
    """Write report/index.html, report.md and report.json."""
    from tasks.report import write_report

    with plain_errors():
        write_report(outputs, destination)
    typer.echo(f"{destination or outputs[0]}/report/index.html")


@app.command()
def settings() -> None:
    """Every setting of a run, with its default."""
    from tasks.config import RunConfig

    table = Table("name", "default", "meaning")
    for name, field in RunConfig.model_fields.items():
        table.add_row(name, str(field.default), field.description)
    Console().print(table)


def main() -> None:
    """Entry point."""
    try:
        app()
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on where this one left off.")
        sys.exit(INCOMPLETE)


if __name__ == "__main__":
    main()
