"""The report of one or several runs: a self-contained HTML page, the same as Markdown, and the numbers as JSON."""

# ruff: noqa: S608  (names inside the SQL are constants of this package; values are parameters)

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import jinja2
import pyarrow as pa

from tasks.analytics.aggregate import aggregate
from tasks.analytics.committed import Output, Shard, list_shards, open_output, read_shard
from tasks.analytics.summarise import connect
from tasks.report.charts import Chart, charts_of, comparison
from tasks.report.data import Night, RunFacts, paired, run_facts
from tasks.report.pictures import Shown, flagged_photos, photos_of, sample_keys, show
from tasks.store.errors import Corrupt, UnknownSchema
from tasks.store.ledger import RunStatus
from tasks.store.schema import PATH
from tasks.text import markdown

PICTURE_BUDGET = 3_300_000
"""Bytes of JPEG in the page, so that with base64 and charts it stays under about 5 MB."""
MAX_FLAGGED = 24
"""Flagged photos shown with pictures, over all runs; the counts name the rest."""
MAX_LISTED = 50
"""Flagged photos listed in Markdown and JSON, a run."""


@dataclass(frozen=True)
class ReportSummary:
    """Where the report is, its Markdown (for a Prefect artifact), and the numbers it gives."""

    html: str
    markdown_path: str
    json_path: str
    html_bytes: int
    photos: int
    ok: int
    failed: int
    flagged: int
    markdown: str
    unreadable: tuple[str, ...] = ()
    """A sentence for each object that lies where shards do and cannot be read."""


@dataclass(frozen=True)
class RunReport:
    """Everything the page shows of one run."""

    facts: RunFacts
    charts: list[Chart]
    shown: list[Shown]
    flagged: list[Shown]
    listed: list[dict[str, Any]]


@dataclass(frozen=True)
class Content:
    """Everything the page shows. ``status``: of the whole output, where the report is on a part of it."""

    reports: list[RunReport]
    charts: list[Chart]
    status: RunStatus | None
    unreadable: tuple[str, ...]


def write_report(
    outputs: Sequence[str], destination: str | None = None, *, max_pictures: int = 24, night: Night | None = None
) -> ReportSummary:
    """Write ``report/index.html``, ``report/report.md`` and ``report/report.json``.

    Args:
        outputs: output roots of the runs; several are put side by side.
        destination: folder or URL under which ``report/`` is written; None = the first output.
        max_pictures: most photos shown before and after, over all runs.
        night: the run on the one output that is reported; nothing but its shards is read. None = all that there is.

    Raises:
        ValueError: no output given, or one without committed shards.
    """
    if not outputs:
        raise ValueError("No output given: name at least one output folder or URL of a run.")
    with tempfile.TemporaryDirectory() as folder:
        done = aggregate(outputs, folder, only=[shard.name for shard in night.shards] if night else None)
        with connect() as connection:
            create_views(connection, folder)
            roots = {output.run: output for output in map(open_output, outputs)}
            create_paths(connection, roots, night)
            reports, charts = _collect(connection, done.runs, roots, max_pictures)
    status = night.status if night and night.status.photos > reports[0].facts.photos else None
    return _write(open_output(destination or outputs[0]), Content(reports, charts, status, done.unreadable))


def create_views(connection: duckdb.DuckDBPyConnection, folder: str) -> None:
    """Views steps, images, runs and summary of the tables in a local folder.

    ``images`` has the newest row of each photo, ``attempts`` all of them.
    """
    for view, table in (("steps", "steps"), ("attempts", "images"), ("runs", "runs"), ("summary", "summary")):
        location = f"{folder}/{table}/*/*.parquet".replace("'", "''")
        connection.execute(
            f"CREATE VIEW {view} AS SELECT * FROM read_parquet('{location}', hive_partitioning = true, "
            "hive_types = {'run': VARCHAR})"
        )
    connection.execute(
        "CREATE VIEW images AS SELECT * FROM attempts QUALIFY plan = max(plan) OVER (PARTITION BY run, key)"
    )


def create_paths(connection: duckdb.DuckDBPyConnection, roots: dict[str, Output], night: Night | None = None) -> None:
    """Table ``paths`` (run, key and the entries of the ledger's column), from the first shard of each run."""
    only = [Shard(shard.name) for shard in night.shards] if night else None
    schema = pa.schema([("run", pa.string()), ("key", pa.string()), *PATH])
    found = [
        {"run": run, "key": row["key"], **entry}
        for run, output in roots.items()
        for row in _first_rows(output, only or list_shards(output, {}))
        for entry in row["paths"] or ()
    ]
    connection.register("paths", pa.Table.from_pylist(found, schema=schema))


def _first_rows(output: Output, shards: list[Shard]) -> list[dict[str, Any]]:
    """Keys and paths of the first shard that can be read."""
    for shard in shards:
        with contextlib.suppress(Corrupt, UnknownSchema):
            rows: list[dict[str, Any]] = read_shard(output, shard, ["key", "paths"])[0].to_pylist()
            return rows
    return []


def _collect(
    connection: duckdb.DuckDBPyConnection, runs: Sequence[str], roots: dict[str, Output], max_pictures: int
) -> tuple[list[RunReport], list[Chart]]:
    facts = run_facts(connection, runs)
    keys = sample_keys(connection, runs, max_pictures // len(runs))
    flagged = {run: flagged_photos(connection, run, MAX_LISTED) for run in runs}
    drawn = {run: photos[: MAX_FLAGGED // len(runs)] for run, photos in flagged.items()}
    pictures = 2 * (len(keys) * len(runs) + sum(map(len, drawn.values()))) or 1
    allowance = min(120_000, PICTURE_BUDGET // pictures)
    reports = [
        RunReport(
            facts=one,
            charts=charts_of(connection, one),
            shown=show(roots[one.run], photos_of(connection, one.run, keys), allowance),
            flagged=show(roots[one.run], drawn[one.run], allowance),
            listed=flagged[one.run],
        )
        for one in facts
    ]
    return reports, comparison(connection, facts) if len(facts) > 1 else []


def _write(target: Output, said: Content) -> ReportSummary:
    html, markdown = (_render(name, said) for name in ("report.html.j2", "report.md.j2"))
    record = {
        "runs": [_as_json(report) for report in said.reports],
        "in_all": vars(said.status) if said.status else None,
        "unreadable": list(said.unreadable),
    }
    content = {
        "report/index.html": html.encode("utf-8", "replace"),
        "report/report.md": markdown.encode("utf-8", "replace"),
        "report/report.json": json.dumps(record, indent=1, default=str).encode(),
    }
    for key, data in content.items():
        target.store.put(key, data)
    facts = [report.facts for report in said.reports]
    html_path, markdown_path, json_path = (f"{target.url}/{key}" for key in content)
    return ReportSummary(
        html_path,
        markdown_path,
        json_path,
        html_bytes=len(content["report/index.html"]),
        photos=sum(one.photos for one in facts),
        ok=sum(one.ok for one in facts),
        failed=sum(one.failed for one in facts),
        flagged=sum(one.flagged for one in facts),
        markdown=markdown,
        unreadable=said.unreadable,
    )


def _as_json(report: RunReport) -> dict[str, Any]:
    return asdict(report.facts) | {"flagged_photos": report.listed}


def _render(name: str, said: Content) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tasks.report", "templates"),
        autoescape=name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "cell": markdown, "paired": paired}
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return environment.get_template(name).render(
        reports=said.reports,
        charts=said.charts,
        in_all=said.status,
        written=written,
        unreadable=said.unreadable[:MAX_LISTED],
        left_out=len(said.unreadable),
    )


def number(value: float | None, digits: int = 3) -> str:
    """A number as people read it: whole ones with thin spaces, others with ``digits`` significant digits."""
    if value is None:
        return "–"
    if float(value).is_integer() or abs(value) >= 10**digits:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.{digits}g}"


def percent(part: float, whole: float) -> str:
    """A share of a whole; a dash where there is no whole."""
    return f"{100 * part / whole:.3g}\u202f%" if whole else "–"
