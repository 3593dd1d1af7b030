"""The tables ``runs`` and ``summary`` of a run, computed by DuckDB from its part files."""

# ruff: noqa: S608  (names inside the SQL are constants of this package; values are parameters)

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from tasks.analytics.committed import Output, read_json
from tasks.analytics.part_files import Manifest, partition
from tasks.analytics.schema import RUNS, SUMMARY
from tasks.store.schema import STAGES

RESIDUALS = ("intra", "inter", "bound")
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@contextmanager
def connect() -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection with bounded memory and a place to spill."""
    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as connection:
        connection.execute("SET memory_limit = '500MB'; SET preserve_insertion_order = false; SET TimeZone = 'UTC'")
        connection.execute(f"SET temp_directory = '{spill}'; SET enable_progress_bar = false")
        yield connection


def small_tables(run: Output, tables: Output, manifest: Manifest) -> dict[str, pa.Table]:
    """``runs`` and ``summary`` of a run."""
    with connect() as connection, _local_parts(run, tables, manifest) as root:
        for table in ("steps", "images"):
            files = [f"{root}/{partition(table, run)}/{name}" for name in manifest.parts]
            connection.execute(f"CREATE VIEW {table} AS SELECT * FROM {read_parquet(files)}")
        return {"runs": _run_table(connection, run, manifest), "summary": _summary_table(connection)}


def read_parquet(files: list[str]) -> str:
    """A DuckDB table expression for some local files."""
    quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    return f"read_parquet([{quoted}], hive_partitioning = false)"


@contextmanager
def _local_parts(run: Output, tables: Output, manifest: Manifest) -> Iterator[str]:
    """The parts where many queries can read them: in place, or copied from the bucket for as long as it takes."""
    if tables.is_local:
        yield tables.root
        return
    with tempfile.TemporaryDirectory() as folder:
        for key in (f"{partition(table, run)}/{name}" for table in ("steps", "images") for name in manifest.parts):
            path = Path(folder) / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tables.store.get(key))
        yield folder


def _run_table(connection: duckdb.DuckDBPyConnection, run: Output, manifest: Manifest) -> pa.Table:
    """The one row of ``runs``: counts from ``images``, the rest from run.json and the shards' footers."""
    counts = "SELECT count(*), count(*) FILTER (status = 'ok'), coalesce(sum(nfe), 0) FROM images"
    photos, ok, nfe = connection.execute(counts).fetchall()[0]
    record = read_json(run, "run.json")
    entries = list(manifest.shards.values())
    spans = [span for entry in entries if (span := _span(entry))]
    first = {key: value for entry in reversed(entries) for key, value in entry.items()}
    row = {
        "output": run.url,
        **{key: first.get(key) for key in ("method", "num_inference_steps", "device", "alphas")},
        "model_digest": first.get("model_digest") or record.get("model_digest"),
        "started_at": min(start for start, _ in spans) if spans else None,
        "finished_at": max(end for _, end in spans) if spans else None,
        "busy_seconds": busy_seconds(spans) if spans else None,
        "shards": len(entries),
        "photos": photos,
        "ok": ok,
        "failed": photos - ok,
        "nfe": int(nfe),
        "configuration": json.dumps(record.get("configuration", {}), sort_keys=True),
        "versions": json.dumps(record.get("versions", {}), sort_keys=True),
    }
    return pa.Table.from_pylist([row], schema=RUNS)


def busy_seconds(spans: list[tuple[datetime, datetime]]) -> float:
    """Length in seconds of the union of time spans: pauses between the attempts of a run do not count."""
    total, reached = 0.0, None
    for start, end in sorted(spans):
        begin = start if reached is None or start > reached else reached
        total += max(0.0, (end - begin).total_seconds())
        reached = end if reached is None else max(reached, end)
    return total


def _summary_table(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """``summary``: one query a measure, so that memory holds the values of one measure at a time."""
    queries = [_quantiles(name, name, f"steps WHERE last AND isfinite({name})", "step") for name in RESIDUALS]
    queries.append(_quantiles("iterations", "iteration", "steps WHERE last", "step"))
    queries += [_quantiles(name, name, "images WHERE status = 'ok'") for name in ("nfe", "nfe_inversion")]
    queries += [_quantiles("seconds", f"seconds_{stage}", "images", name=stage) for stage in STAGES]
    queries.append(_quantiles("seconds", "seconds", "images", name="all"))
    queries.append(_shares("status", "status", "true"))
    queries += [_shares(name, name, "status = 'ok'") for name in ("inversion_status", "verdict")]
    queries.append(_shares("failure", "error_code", "status <> 'ok'"))
    found = (connection.sql(query).to_arrow_table() for query in queries)
    return pa.concat_tables([part.rename_columns(SUMMARY.names).cast(SUMMARY) for part in found])


def _quantiles(measure: str, column: str, source: str, by: str = "NULL::INTEGER", name: str | None = None) -> str:
    label = f"'{name}'" if name else "NULL"
    quantiles = ", ".join(f"q[{index}]::DOUBLE" for index in range(1, len(_QUANTILES) + 1))
    return f"""
        SELECT '{measure}' AS measure, {label}::VARCHAR AS name, step, n AS count, NULL::DOUBLE AS share, total, mean,
               {quantiles}, largest AS max
        FROM (SELECT {by} AS step, count({column}) AS n, sum({column})::DOUBLE AS total, avg({column}) AS mean,
                     quantile_cont({column}, {list(_QUANTILES)}) AS q, max({column})::DOUBLE AS largest
              FROM {source} GROUP BY 1)
        WHERE n > 0 ORDER BY step"""


def _shares(measure: str, column: str, condition: str) -> str:
    empty = ", ".join(["NULL::DOUBLE"] * (len(_QUANTILES) + 3))
    return f"""
        SELECT '{measure}', {column}, NULL::INTEGER, n, n / (SELECT count(*) FROM images), {empty}
        FROM (SELECT {column}, count(*) AS n FROM images WHERE {condition} GROUP BY 1)
        WHERE {column} IS NOT NULL ORDER BY n DESC, {column}"""


def _span(entry: dict[str, Any]) -> tuple[datetime, datetime] | None:
    start, end = moment(entry.get("started_at")), moment(entry.get("finished_at"))
    return (start, end) if start and end else None


def moment(value: object) -> datetime | None:
    """A moment in UTC from ISO 8601 text or seconds since 1970; None if it is neither."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
