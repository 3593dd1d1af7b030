"""Commands for operations: a Prefect server, its pools and limits, deployments, and serving without a worker."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.dehazing import Chosen, takes_dehazing_options
from flows.cli.terminal import console, plain_errors
from tasks.text import terminal

if TYPE_CHECKING:
    from flows.provision import PoolChange

app = typer.Typer()
LIMIT = "fixpoint-gpu"
"""Global concurrency limit: shards computed at one time, over all runs."""

Cron = Annotated[str | None, typer.Option(help="when to run, as a cron line, for instance '0 2 * * *'")]
Zone = Annotated[str, typer.Option(help="time zone of the cron line")]
SourceOption = Annotated[str, typer.Option(help="photos that a scheduled run works on")]
OutputOption = Annotated[str, typer.Option(help="where a scheduled run's results go")]


class PoolType(StrEnum):
    """Where a work pool's flow runs live."""

    PROCESS = "process"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"


def server_environment(host: str, port: int, url: str | None = None) -> dict[str, str]:
    """Settings of a Prefect server on a port: the Prefect UI must be told the API's address, or they ask port 4200."""
    api = f"{(url or f'http://{host}:{port}').rstrip('/')}/api"
    return {
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_API_URL": api,
    }


@app.command()
def server(
    port: Annotated[int, typer.Option(help="port of the API and the Prefect UI")] = 4200,
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 for other machines")] = "127.0.0.1",
    url: Annotated[str | None, typer.Option(help="address browsers and workers use, if another")] = None,
    database: Annotated[
        str | None, typer.Option(help="postgresql+asyncpg://… for several workers; SQLite else")
    ] = None,
) -> None:
    """Start a Prefect server, pages and API on the port named, telemetry off. Ends with Ctrl-C."""
    if host == "0.0.0.0" and url is None:  # noqa: S104
        raise typer.BadParameter("listening on every address needs --url: the address that browsers and workers use")
    environment = os.environ | server_environment(host, port, url)
    if database is not None:
        environment["PREFECT_API_DATABASE_CONNECTION_URL"] = database
    console.print(
        terminal(f"Elsewhere:  export PREFECT_API_URL={environment['PREFECT_API_URL']}"),
        highlight=False,
        soft_wrap=True,
    )
    os.execve(sys.executable, [sys.executable, "-P", "-m", "prefect", "server", "start"], environment)  # noqa: S606


@app.command()
def setup(
    kind: Annotated[PoolType, typer.Option("--type", help="where flow runs live")] = PoolType.PROCESS,
    gpus: Annotated[int, typer.Option(min=1, help="flow runs of the GPU pool at one time")] = 1,
    pool: Annotated[str, typer.Option(help="pool of the runs that plan, follow and report")] = "fixpoint",
    gpu_pool: Annotated[str, typer.Option(help="pool of the runs that compute a share")] = "fixpoint-gpu",
    limit: Annotated[str, typer.Option(help="global concurrency limit on shards at one time")] = LIMIT,
    slots: Annotated[int | None, typer.Option(min=1, help="slots of that limit; twice --gpus if left out")] = None,
    dry_run: Annotated[bool, typer.Option(help="show what would change in the pools, and change nothing")] = False,
    reset_templates: Annotated[
        bool, typer.Option(help="take Fixpoint's job templates and drop what was changed in the pools' own")
    ] = False,
    notify: Annotated[
        str | None,
        typer.Option(metavar="TYPE/NAME", help="notification block that is told of degraded and crashed runs"),
    ] = None,
) -> None:
    """Make, or bring up to date, the two work pools, the concurrency limit and the watch over lost runs."""
    from flows.provision import ensure_limit, ensure_notification, ensure_watch, plan_pool

    with plain_errors():
        changes = [
            plan_pool(pool, kind.value, None, gpu=False, reset=reset_templates),
            plan_pool(gpu_pool, kind.value, gpus, gpu=True, reset=reset_templates),
        ]
        for change in changes:
            show_pool(change, reset_templates)
        if dry_run:
            return
        if notify is not None:
            ensure_notification(notify)
    for change in changes:
        change.apply()
    ensure_limit(limit, slots or 2 * gpus)  # a shard in work, and one that is read or written, for each
    ensure_watch()
    told = f"Pools {pool} and {gpu_pool} ({kind}, {gpus} at a time); limit {limit}: {slots or 2 * gpus}."
    console.print(terminal(told))
    console.print(
        terminal(f"Workers:  prefect worker start --pool {pool}   and   prefect worker start --pool {gpu_pool}")
    )


def show_pool(change: PoolChange, reset: bool) -> None:
    """What becomes of a pool, and where its template is not Fixpoint's."""
    if not change.exists:
        console.print(terminal(f"{change.name}: a new work pool of type {change.kind}"), highlight=False)
    elif change.kept:
        fate = "dropped" if reset else "kept; --reset-templates drops it"
        console.print(terminal(f"{change.name}: what was changed in its job template is {fate}"), highlight=False)
        for line in change.kept:
            console.print(terminal(line), highlight=False, soft_wrap=True)


@app.command()
@takes_dehazing_options
def deploy(
    source: SourceOption,
    output: OutputOption,
    cron: Cron = "0 2 * * *",
    timezone: Zone = "UTC",
    pool: Annotated[str, typer.Option(help="work pool of the flows")] = "fixpoint",
    gpu_pool: Annotated[str, typer.Option(help="work pool of the shares of a run")] = "fixpoint-gpu",
    image: Annotated[str | None, typer.Option(help="container image, for docker and kubernetes pools")] = None,
    *,
    chosen: Chosen,
) -> None:
    """Create the deployments of deployments/prefect.yaml: dehaze every night, the other flows on demand.

    The nightly run takes every option of 'fixpoint dehaze'.
    """
    with plain_errors():
        dehazing_parameters(source, output, chosen)
        from flows.provision import filled_deployments

        content = filled_deployments(files("deployments").joinpath("prefect.yaml").read_text(), *chosen, image)
    environment = os.environ | {
        "FIXPOINT_SOURCE": source,
        "FIXPOINT_OUTPUT": output,
        "FIXPOINT_CRON": cron or "",
        "FIXPOINT_TIMEZONE": timezone,
        "FIXPOINT_POOL": pool,
        "FIXPOINT_GPU_POOL": gpu_pool,
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prefect.yaml"
        file.write_text(content)
        command = [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)


def dehazing_parameters(source: str, output: str, chosen: Chosen) -> dict[str, Any]:
    """Parameters of the flow ``dehaze``. Raises ValueError for what the flow would refuse."""
    from flows.execution import Execution, refuse_signature
    from flows.forms import grouped
    from tasks.config import RunConfig

    refuse_signature(source)
    RunConfig(**chosen.settings)
    Execution(**chosen.execution)
    said = {"config": grouped("dehaze", chosen.settings), "execution": chosen.execution}
    return {"source": source, "output": output, **{name: value for name, value in said.items() if value}}


@app.command()
@takes_dehazing_options
def serve(
    source: SourceOption,
    output: OutputOption,
    cron: Cron = None,
    timezone: Zone = "UTC",
    limit: Annotated[int, typer.Option(min=1, help="runs at one time")] = 1,
    *,
    chosen: Chosen,
) -> None:
    """One process for everything: schedule, form in the Prefect UI, and the runs themselves. No worker, no pool.

    The scheduled run takes every option of 'fixpoint dehaze'.
    """
    with plain_errors():
        parameters = dehazing_parameters(source, output, chosen)
    from prefect import serve as serve_flows
    from prefect.schedules import Cron as CronSchedule

    from flows.aggregate import aggregate
    from flows.operations import FLOWS

    schedule = CronSchedule(cron, timezone=timezone) if cron else None
    served: list[Any] = [
        FLOWS["dehaze"].to_deployment("served", parameters=parameters, schedule=schedule, tags=["fixpoint", "served"]),
        *(FLOWS[name].to_deployment("served", tags=["fixpoint", "served"]) for name in ("edit", "invert", "restore")),
        aggregate.to_deployment("served", tags=["fixpoint", "served"]),
    ]
    serve_flows(*served, limit=limit)
