"""The numbers of a report, asked of the analytics tables with DuckDB."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from tasks.store.schema import STAGES

FLAGGED = (
    "(status <> 'ok' OR coalesce(verdict, 'improved') <> 'improved' "
    "OR coalesce(inversion_status, 'converged') <> 'converged')"
)
"""SQL: the photos somebody should look at."""

PHOTO_COLUMNS = (
    "run, key, plan, shard, row, status, error_code, error_message, verdict, strength, inversion_status, source_uri, "
    "output_path, nfe, metrics['psnr_input'] AS psnr_input, metrics['psnr_output'] AS psnr_output"
)


@dataclass(frozen=True)
class RunFacts:
    """What the report says of one run. Means are over the photos with status ok; times in seconds."""

    run: str
    label: str
    output: str
    method: str | None
    num_inference_steps: int | None
    device: str | None
    started_at: str | None
    finished_at: str | None
    photos: int
    ok: int
    failed: int
    flagged: int
    verdicts: dict[str, int]
    inversion: dict[str, int]
    failures: dict[str, int]
    nfe: float | None
    nfe_inversion: float | None
    photos_per_second: float | None
    busy_seconds: float | None
    seconds: dict[str, float]
    """Mean seconds a photo by stage."""
    measures: dict[str, tuple[int, float]]
    """Count and mean of each measure."""
    psnr_photos: int
    psnr_input: float | None
    psnr_output: float | None
    psnr_better: int
    model_digest: str | None
    configuration: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    command: str = ""


def run_facts(connection: duckdb.DuckDBPyConnection, runs: Sequence[str]) -> list[RunFacts]:
    """The facts of each run, in the given order, with labels that tell them apart."""
    records = {row["run"]: row for row in rows(connection, "SELECT * FROM runs")}
    short = {run: run.rpartition("-")[0] for run in runs}
    unique = {run: name if list(short.values()).count(name) == 1 else run for run, name in short.items()}
    return [_facts(connection, records[run], unique[run]) for run in runs]


def _facts(connection: duckdb.DuckDBPyConnection, record: dict[str, Any], label: str) -> RunFacts:
    run = record["run"]
    ok = _one(
        connection,
        "SELECT avg(nfe) AS nfe, avg(nfe_inversion) AS nfe_inversion FROM images WHERE run = ? AND status = 'ok'",
        run,
    )
    flagged = _one(connection, f"SELECT count(*) AS n FROM images WHERE run = ? AND {FLAGGED}", run)["n"]
    configuration = json.loads(record["configuration"])
    busy = record["busy_seconds"]
    kept = ("run", "output", "method", "num_inference_steps", "device", "photos", "ok", "failed", "model_digest")
    return RunFacts(
        **{name: record[name] for name in kept},
        label=label,
        started_at=_moment(record["started_at"]),
        finished_at=_moment(record["finished_at"]),
        flagged=flagged,
        verdicts=_from_best(_counts(connection, "verdict", run, "status = 'ok'")),
        inversion=_counts(connection, "inversion_status", run, "status = 'ok'"),
        failures=_counts(connection, "error_code", run, "status <> 'ok'"),
        nfe=ok["nfe"],
        nfe_inversion=ok["nfe_inversion"],
        photos_per_second=record["photos"] / busy if busy else None,
        busy_seconds=busy,
        seconds=_stage_seconds(connection, run),
        measures=_measures(connection, run),
        **_psnr(connection, run),
        configuration=configuration,
        versions=json.loads(record["versions"]),
        command=reproduce(configuration, record["output"]),
    )


def rows(connection: duckdb.DuckDBPyConnection, query: str, *values: object) -> list[dict[str, Any]]:
    """The rows of a query as dictionaries."""
    result = connection.execute(query, values)
    names = [column[0] for column in result.description or ()]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _one(connection: duckdb.DuckDBPyConnection, query: str, *values: object) -> dict[str, Any]:
    return rows(connection, query, *values)[0]


def _counts(connection: duckdb.DuckDBPyConnection, column: str, run: str, condition: str) -> dict[str, int]:
    query = f"""SELECT {column} AS name, count(*) AS n FROM images
                WHERE run = ? AND {condition} AND {column} IS NOT NULL GROUP BY 1 ORDER BY n DESC, name"""
    return {row["name"]: row["n"] for row in rows(connection, query, run)}


def _from_best(verdicts: dict[str, int]) -> dict[str, int]:
    """The known verdicts from good to bad, then any others."""
    order = [name for name in ("improved", "unchanged", "weakened", "collapsed") if name in verdicts]
    return {name: verdicts[name] for name in dict.fromkeys([*order, *verdicts])}


def _stage_seconds(connection: duckdb.DuckDBPyConnection, run: str) -> dict[str, float]:
    means = ", ".join(f"avg(seconds_{stage}) AS {stage}" for stage in STAGES)
    found = _one(connection, f"SELECT {means} FROM images WHERE run = ? AND status = 'ok'", run)
    return {stage: seconds for stage, seconds in found.items() if seconds is not None}


def _measures(connection: duckdb.DuckDBPyConnection, run: str) -> dict[str, tuple[int, float]]:
    query = """SELECT entry.key AS name, count(entry.value) AS n, avg(entry.value) AS mean
               FROM (SELECT unnest(map_entries(metrics)) AS entry FROM images WHERE run = ? AND status = 'ok')
               WHERE isfinite(entry.value) GROUP BY 1 ORDER BY 1"""
    return {row["name"]: (row["n"], row["mean"]) for row in rows(connection, query, run)}


def _psnr(connection: duckdb.DuckDBPyConnection, run: str) -> dict[str, Any]:
    """PSNR in dB before and after, over the photos whose ground truth is known."""
    query = """SELECT count(*) AS psnr_photos, avg(b) AS psnr_input, avg(a) AS psnr_output,
                      count(*) FILTER (a > b) AS psnr_better
               FROM (SELECT metrics['psnr_input'] AS b, metrics['psnr_output'] AS a
                     FROM images WHERE run = ? AND status = 'ok') WHERE isfinite(a) AND isfinite(b)"""
    return _one(connection, query, run)


def reproduce(configuration: dict[str, Any], output: str) -> str:
    """The command line that repeats the run, from its configuration."""
    known = {key: value for key, value in configuration.items() if value is not None}
    verb = str(known.pop("task", known.pop("flow", "dehaze")))
    source = str(known.pop("source", "SOURCE"))
    target = str(known.pop("output", output))
    options = [word for key, value in sorted(known.items()) for word in _option(key, value)]
    return shlex.join(["fixpoint", verb, source, target, *options])


def _option(key: str, value: object) -> list[str]:
    flag = "--" + key.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else "--no-" + flag[2:]]
    return [flag, json.dumps(value) if isinstance(value, dict | list) else str(value)]


def _moment(value: Any) -> str | None:
    return value.strftime("%Y-%m-%d %H:%M:%S UTC") if value is not None else None
