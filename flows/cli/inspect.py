"""The commands that look and sum up: at a model, at a source, at the output of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.cli.terminal import (
    INCOMPLETE,
    USAGE,
    AllowHttp,
    AllowRoot,
    AsJson,
    Model,
    Output,
    Source,
    console,
    emit,
    plain_errors,
)
from tasks.text import plain, terminal

app = typer.Typer()


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(help="built-in, folder or hub id")] = "builtin:haze", as_json: AsJson = False
) -> None:
    """Does this model load, what is it, what does it cost, what to change."""
    from dataclasses import asdict

    from fpcore.models.doctor import examine

    found = asdict(examine(model))
    if as_json:
        emit(found)
    else:
        table = Table(show_header=False, box=None)
        for name, value in found.items():
            table.add_row(
                name.replace("_", " "), "\n".join(map(terminal, value if isinstance(value, (list, tuple)) else [value]))
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
    from tasks.evaluation.convergence import analyze as run_analysis

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
                    on_progress=lambda line: console.print(terminal(line), highlight=False, soft_wrap=True),
                )
            )
        )


@app.command()
def status(output: Output, as_json: AsJson = False) -> None:
    """How far a run has come, from its commits alone."""
    from tasks.store.ledger import Ledger
    from tasks.store.objects import open_store

    unreadable: dict[str, str] = {}
    with plain_errors():
        counts = Ledger(open_store(output)).status(unreadable)
    if as_json:
        emit({**vars(counts), "complete": counts.complete, "unreadable": unreadable})
    else:
        table = Table(show_header=False, box=None)
        for name, value in vars(counts).items():
            table.add_row(name.replace("_", " "), str(value))
        Console().print(table)
        name_unreadable(unreadable.values())
    raise typer.Exit(0 if counts.complete and not unreadable else INCOMPLETE)


def name_unreadable(reasons: Iterable[str]) -> None:
    """Say which objects of an output are left out, and why."""
    for reason in reasons:
        console.print(f"[bold red]Left out:[/] {terminal(reason)}", highlight=False, soft_wrap=True)


@app.command()
def verify(output: Output, as_json: AsJson = False) -> None:
    """Read everything back and name whatever is missing, double or damaged."""
    from tasks.store.ledger import Ledger
    from tasks.store.objects import open_store
    from tasks.store.verify import verify as find_problems

    with plain_errors():
        problems = list(find_problems(Ledger(open_store(output))))
    if as_json:
        emit({"problems": [vars(p) for p in problems]})
    for problem in [] if as_json else problems:
        text = f"{terminal(problem.key)}: {terminal(problem.message)}"
        Console().print(f"[red]{text}[/]", highlight=False, soft_wrap=True)
    if not problems and not as_json:
        Console().print("Everything planned is there, once, and undamaged.")
    raise typer.Exit(INCOMPLETE if problems else 0)


@app.command()
def compact(output: Output, as_json: AsJson = False) -> None:
    """Write the rows of many small commits into few large files; nothing is removed, runs and readers may go on.

    After it, `fixpoint gc --compacted` removes the commits' own objects.
    """
    from tasks.store.compact import compact as write_files
    from tasks.store.ledger import Ledger
    from tasks.store.objects import open_store

    with plain_errors():
        done = write_files(Ledger(open_store(output)))
    if as_json:
        emit(vars(done))
        return
    console.print(
        f"{done.commits} commits of {done.rows} rows are in {done.files} new files; {done.left} wait for more.",
        highlight=False,
    )


@app.command()
def gc(
    output: Output,
    compacted: Annotated[
        bool,
        typer.Option("--compacted", help="instead: the commits' own objects that compacted files hold the rows of"),
    ] = False,
    delete: Annotated[bool, typer.Option(help="remove them; otherwise only list")] = False,
) -> None:
    """List, or remove, what crashed attempts left behind. Never while a run writes there."""
    from tasks.store.compact import originals, remove_originals
    from tasks.store.ledger import Ledger
    from tasks.store.objects import open_store
    from tasks.store.verify import gc as collect

    with plain_errors():
        ledger = Ledger(open_store(output))
        if compacted:
            shards = originals(ledger)
            found = [shard.key for shard in shards]
            if delete:
                remove_originals(ledger, shards)
        else:
            found = [entry.key for entry in collect(ledger, dry_run=not delete)]
    for key in found:
        typer.echo(plain(key))
    what = "objects" if compacted else "leftovers"
    console.print(f"{len(found)} {what} {'removed' if delete else 'found; --delete removes them'}.", highlight=False)


@app.command()
def plan(
    source: Source,
    output: Output,
    like: Annotated[str | None, typer.Option(help="output of a run to take time and storage a photo from")] = None,
    photos: Annotated[int | None, typer.Option(min=1, help="size for so many photos instead of those there")] = None,
    gpus: Annotated[str, typer.Option(help="comma-separated numbers of GPUs to size for")] = "1",
    allow_http: AllowHttp = None,
    allow_root: AllowRoot = None,
    as_json: AsJson = False,
) -> None:
    """Dry run: what a run would do, without doing it; with --like also how long it takes and what it stores."""
    from tasks.estimate import estimate, rates_of, sizing
    from tasks.photos.listing import PassedOver
    from tasks.store.access import Access

    with plain_errors():
        answer = estimate(source, output, Access.to(*(allow_root or ()), http=bool(allow_http)))
        rates = rates_of(like) if like else None
        devices = [int(n) for n in gpus.split(",")]
    rows = sizing(rates, photos or answer["photos"], devices) if rates else []
    if as_json:
        emit({**answer, **({"sizing": rows} if rows else {})})
        return
    table = Table(show_header=False, box=None)
    answer["passed_over"] = str(PassedOver(answer["passed_over"])) or "nothing"
    for name, value in answer.items():
        table.add_row(name.replace("_", " "), terminal(value))
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
    from tasks.analytics.aggregate import aggregate as make_tables

    with plain_errors():
        summary = make_tables(outputs, destination)
    typer.echo(json.dumps(vars(summary), default=str))
    name_unreadable(summary.unreadable)


@app.command()
def current(
    output: Output,
    source: Annotated[
        str | None, typer.Option(help="the photos' source: those that it lists no more are marked as gone")
    ] = None,
    pictures: Annotated[
        bool, typer.Option(help="keep current/images/ as well: a copy of each photo's current picture under its name")
    ] = False,
    allow_http: AllowHttp = None,
    allow_root: AllowRoot = None,
    as_json: AsJson = False,
) -> None:
    """Bring current/photos.parquet up to date: the newest good row of each photo."""
    from tasks.analytics.current import update_current
    from tasks.photos.sources import list_photos
    from tasks.store.access import Access

    with plain_errors():
        access = Access.to(*(allow_root or ()), http=bool(allow_http))
        photos = list_photos(source, output=output, access=access) if source is not None else None
        listed = (photo["key"] for photo in photos) if photos is not None else None
        done = update_current(output, listed, pictures=pictures)
    if as_json:
        emit(vars(done))
        return
    moved = f"; {done.copied} pictures copied, {done.removed} removed" if pictures else ""
    console.print(
        f"{done.photos} photos are current, {done.gone} of them gone from the source{moved}.", highlight=False
    )
    typer.echo(plain(done.table))


class TableFormat(StrEnum):
    """Open table formats."""

    DELTA = "delta"
    ICEBERG = "iceberg"


@app.command()
def export(
    output: Output,
    destination: Annotated[str, typer.Argument(help="delta: folder or URL of the table; iceberg: namespace.table")],
    to: Annotated[TableFormat, typer.Option(help="format of the table")] = TableFormat.DELTA,
    catalog: Annotated[str, typer.Option(help="iceberg: a catalog of pyiceberg's settings")] = "default",
    as_json: AsJson = False,
) -> None:
    """Append what is new to a table of Delta Lake or Iceberg, for Spark, Trino, Athena, DuckDB and others."""
    from tasks.analytics.export import export as append_new

    with plain_errors():
        done = append_new(output, destination, to.value, catalog)
    if as_json:
        emit(vars(done))
        return
    console.print(
        f"{done.rows_new} rows of {done.shards_new} shards appended, {done.shards_known} were there.", highlight=False
    )
    typer.echo(f"{plain(done.table)} is at version {done.version}")


@app.command()
def report(
    outputs: Annotated[list[str], typer.Argument(help="one output, or several to put side by side")],
    destination: Annotated[str | None, typer.Option(help="where report/ goes; the first output if left out")] = None,
) -> None:
    """Write report/index.html, report.md and report.json."""
    from tasks.report.page import write_report

    with plain_errors():
        written = write_report(outputs, destination)
    name_unreadable(written.unreadable)
    typer.echo(f"{destination or outputs[0]}/report/index.html")


@app.command()
def settings() -> None:
    """Every setting of a run, with its default."""
    from tasks.config import RunConfig

    table = Table("name", "default", "meaning")
    for name, field in RunConfig.model_fields.items():
        table.add_row(name, terminal(field.default), terminal(field.description or ""))
    Console().print(table)


@app.command()
def attention(
    output: Annotated[str, typer.Argument(help="output of an edit that kept its --attention-maps")],
    folder: Annotated[str, typer.Argument(help="folder that the pictures go to, one PNG a photo")],
) -> None:
    """Write what each word of the prompts attends to as pictures."""
    with plain_errors():
        from tasks.report.attention_export import export_attention

        typer.echo(f"{export_attention(output, folder)} pictures in {folder}")
