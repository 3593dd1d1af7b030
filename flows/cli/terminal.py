"""What the commands share: exit codes, arguments, errors as sentences, a progress bar."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from tasks.text import terminal

console = Console(stderr=True)
USAGE, INCOMPLETE, TOO_MANY = 2, 3, 4

Source = Annotated[
    str,
    typer.Argument(
        help="folder, glob, s3:// prefix (public: FIXPOINT_S3_ANONYMOUS=BUCKET), or manifest (CSV, JSONL, Parquet, "
        "PIE-Bench JSON)"
    ),
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
AllowHttp = Annotated[
    bool | None,
    typer.Option("--allow-http/--no-allow-http", help="read photos of the public web that a manifest names"),
]
AllowRoot = Annotated[
    list[str] | None,
    typer.Option(
        help="a further place a manifest may name: a folder, s3://bucket, or http://host/ of a private network"
    ),
]
Steps = Annotated[int | None, typer.Option(help="DDIM steps")]
Tolerance = Annotated[float | None, typer.Option(help="RMS at which a fixed point counts as found")]
Seed = Annotated[int | None, typer.Option(help="seed of everything drawn")]
Metadata = Annotated[str | None, typer.Option(help="metadata of the pictures: keep, no-location, none")]
RetryFailed = Annotated[
    str | None,
    typer.Option(
        metavar="CODES",
        help="try failed photos again: all, or error codes separated by commas; without the option those of the "
        "source's or the machine's failures, three times at most",
    ),
]
MaxFailed = Annotated[float, typer.Option(help="fraction of failed photos above which the run fails")]
Prompt = Annotated[str | None, typer.Option(help="what the photos show; a manifest may say it per photo")]
InversionMethod = Annotated[str | None, typer.Option(help="inversion method")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object for machines, no progress")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="show the flow's log")]


_machine: TextIO | None = None
"""What ``reserve_stdout`` keeps for the one JSON object of a command."""


def reserve_stdout() -> None:
    """Keep standard output for ``emit``: whatever libraries, servers and child processes print goes to standard error."""
    global _machine
    sys.stdout.flush()
    _machine = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)


def emit(value: Any) -> None:
    """Print one JSON object for machines."""
    print(json.dumps(value, default=str), file=_machine or sys.stdout, flush=True)


def stop(code: int, message: str) -> NoReturn:
    """Say what is wrong in one plain sentence and leave."""
    console.print(f"[bold red]Error:[/] {terminal(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors that users can mend become a sentence and an exit code."""
    from flows.execution import Incomplete, TooManyFailures
    from tasks.store.errors import StoreError

    try:
        yield
    except Incomplete as error:
        stop(INCOMPLETE, str(error))
    except TooManyFailures as error:
        stop(TOO_MANY, str(error))
    except KeyboardInterrupt:  # or Typer would say "Aborted!" and no more
        console.print("Stopped. The same command goes on where this one left off.")
        raise typer.Exit(INCOMPLETE) from None
    except Exception as error:
        if not isinstance(error, StoreError | ValueError) and not _is_parameter_error(error):
            raise
        stop(USAGE, _sentence(error))


def _is_parameter_error(error: Exception) -> bool:
    """Whether this is Prefect's own error for a flow's parameters; asked without loading Prefect."""
    module = sys.modules.get("prefect.exceptions")
    return module is not None and isinstance(error, module.ParameterTypeError)


def _sentence(error: Exception) -> str:
    """What is wrong; of a configuration, which setting."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'setting'}: {e['msg']}" for e in error.errors())
    return str(error)


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

    from tasks.shard.progress import PROGRESS

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
