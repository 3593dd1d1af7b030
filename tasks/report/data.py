"""The numbers of a report, asked of the analytics tables with DuckDB."""

# ruff: noqa: S608  (names inside the SQL are constants of this package; values are parameters)

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from tasks.config import RunConfig
from tasks.store.ledger import RunStatus, ShardId
from tasks.store.schema import STAGES
from tasks.store.uris import parse

FLAGGED = (
    "(status <> 'ok' OR coalesce(verdict, 'cleared') NOT IN ('cleared', 'gently', 'unchanged') "
    "OR coalesce(inversion_status, 'converged') NOT IN ('converged', 'completed') "
    "OR coalesce(metrics['psnr_output'] < metrics['psnr_input'], false))"
)
"""SQL: the photos somebody should look at. A photo that was changed gently or not at all is as it should be; `completed`
is a fixed number of iterations, which judges nothing."""
MAX_NIGHTS = 30
"""Runs that the report of a whole output lists, the newest ones."""

PHOTO_COLUMNS = (
    "run, key, plan, shard, row, status, error_code, error_message, verdict, strength, inversion_status, source_uri, "
    "output_path, nfe, metrics['psnr_input'] AS psnr_input, metrics['psnr_output'] AS psnr_output"
)


@dataclass(frozen=True)
class Night:
    """What one run has committed, and the output as a whole after it: a report on that run alone."""

    shards: tuple[ShardId, ...]
    status: RunStatus


@dataclass(frozen=True)
class RunFacts:
    """What the report says of an output, or of one run on it; photos count by their newest row.

    Means are over the photos with status ok; times in seconds.
    """

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
    nights: list[dict[str, Any]] = field(default_factory=list)
    """The runs whose rows these are, the newest first: run_id, from, photos, ok, failed."""

    @property
    def way(self) -> str:
        """What tells runs apart: the method of dehazing or the guidance mode of editing, and the inversion method."""
        operation, method = self.configuration.get("operation"), self.method or "–"
        if operation == "dehaze":
            dehazing = str(self.configuration.get("dehaze_variant", "density"))
            name = {"dcp": "dark channel prior", "density": "haze density"}.get(dehazing, dehazing)
            return f"{name}, {method}" if self.inverts else name
        if operation == "restore":
            return f"{self.configuration.get('task', 'colorize')}, {method}"
        return f"guidance {self.configuration.get('guidance')}, {method}" if operation == "edit" else method

    @property
    def inverts(self) -> bool:
        """Whether photos were inverted: dehazing by haze density alone asks no diffusion model."""
        return self.configuration.get("operation") != "dehaze" or bool(self.nfe_inversion)

    @property
    def network(self) -> str:
        """What the evaluations are of."""
        return "the model" if self.inverts else "the haze density network"

    @property
    def converged(self) -> float | None:
        """Share of the inversions that converged, 0 to 1; None if the method judged none."""
        judged = self.ok - self.inversion.get("completed", 0)
        return self.inversion.get("converged", 0) / judged if judged and self.inversion else None


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
    counts = f"""SELECT count(*) AS photos, count(*) FILTER (status = 'ok') AS ok,
                        count(*) FILTER (status <> 'ok') AS failed, count(*) FILTER ({FLAGGED}) AS flagged
                 FROM images WHERE run = ?"""
    configuration = json.loads(record["configuration"])
    busy = record["busy_seconds"]
    kept = ("run", "output", "method", "num_inference_steps", "device", "model_digest")
    return RunFacts(
        **{name: record[name] for name in kept},
        **_one(connection, counts, run),
        label=label,
        started_at=_moment(record["started_at"]),
        finished_at=_moment(record["finished_at"]),
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
        command=reproduce(configuration, _source(connection, run), _plain(record["output"])),
        nights=_nights(connection, run),
    )


def rows(connection: duckdb.DuckDBPyConnection, query: str, *values: object) -> list[dict[str, Any]]:
    """The rows of a query as dictionaries."""
    result = connection.execute(query, values)
    names = [column[0] for column in result.description or ()]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _nights(connection: duckdb.DuckDBPyConnection, run: str) -> list[dict[str, Any]]:
    """The newest runs on an output by the time of their first photo, with all of their rows."""
    query = f"""SELECT run_id, strftime(min(processed_at), '%Y-%m-%d %H:%M:%S UTC') AS began, count(*) AS photos,
                       count(*) FILTER (status = 'ok') AS ok, count(*) FILTER (status <> 'ok') AS failed
                FROM attempts WHERE run = ? AND run_id IS NOT NULL
                GROUP BY run_id ORDER BY began DESC, run_id LIMIT {MAX_NIGHTS}"""
    return rows(connection, query, run)


def _source(connection: duckdb.DuckDBPyConnection, run: str) -> str:
    """Source of the run, judged by its first and last photos."""
    query = """(SELECT source_uri, key FROM images WHERE run = $1 ORDER BY source_uri LIMIT 1) UNION ALL
               (SELECT source_uri, key FROM images WHERE run = $1 ORDER BY source_uri DESC LIMIT 1)"""
    return source_of([(row["source_uri"], row["key"]) for row in rows(connection, query, run)])


def _plain(url: str) -> str:
    """A folder as people type it, or the URL."""
    place = parse(url)
    return place.path if place.scheme == "file" else url


def _one(connection: duckdb.DuckDBPyConnection, query: str, *values: object) -> dict[str, Any]:
    return rows(connection, query, *values)[0]


def _counts(connection: duckdb.DuckDBPyConnection, column: str, run: str, condition: str) -> dict[str, int]:
    query = f"""SELECT {column} AS name, count(*) AS n FROM images
                WHERE run = ? AND {condition} AND {column} IS NOT NULL GROUP BY 1 ORDER BY n DESC, name"""
    return {row["name"]: row["n"] for row in rows(connection, query, run)}


def _from_best(verdicts: dict[str, int]) -> dict[str, int]:
    """The known verdicts from good to bad, then any others."""
    order = [name for name in ("cleared", "gently", "unchanged", "collapsed") if name in verdicts]
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


def paired(measures: dict[str, tuple[int, float]]) -> list[tuple[str, int, float, float | None]]:
    """Name, photos, mean, and the mean afterwards for measures that come in two (x_before, x_after)."""
    twins = {f"{stem}_{first}": f"{stem}_{second}" for stem, first, second in _stems(measures)}
    return [
        (
            name.rpartition("_")[0] if name in twins else name,
            count,
            mean,
            measures[twins[name]][1] if name in twins else None,
        )
        for name, (count, mean) in measures.items()
        if name not in twins.values()
    ]


def _stems(measures: dict[str, tuple[int, float]]) -> list[tuple[str, str, str]]:
    return [
        (name.removesuffix(f"_{first}"), first, second)
        for name in measures
        for first, second in (("input", "output"), ("before", "after"))
        if name.endswith(f"_{first}") and f"{name.removesuffix(first)}{second}" in measures
    ]


def source_of(photos: Sequence[tuple[str | None, str]]) -> str:
    """The source that photos with these (URI, key) were listed under, or the word SOURCE where they share none."""
    roots = {_root(uri, key) for uri, key in photos if uri}
    return (roots.pop() if len(roots) == 1 else "") or "SOURCE"


def _root(uri: str, key: str) -> str:
    """The folder that a photo was listed in, the table that it lies in, or nothing."""
    address = parse(uri)
    place = _plain(address.file.uri)
    if address.cell is not None:
        return place
    return place[: -len(key)].rstrip("/") if place.endswith(f"/{key}") else ""


def reproduce(configuration: dict[str, Any], source: str, output: str) -> str:
    """The command line that repeats the run: every setting that is not the default of this version."""
    fields = RunConfig.model_fields
    changed = {
        key: value
        for key, value in sorted(configuration.items())
        if key != "operation" and not (key in fields and fields[key].default == value)
    }
    verb = str(configuration.get("operation", "dehaze"))
    options = [word for key, value in changed.items() for word in ("--set", f"{key}={_value(value)}")]
    return shlex.join(["fixpoint", verb, source, output, *options])


def _value(value: object) -> str:
    """A value as ``--set`` reads it: plain text, or JSON where the text would be taken for JSON."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return value
    return json.dumps(value, ensure_ascii=False)


def _moment(value: Any) -> str | None:
    return value.strftime("%Y-%m-%d %H:%M:%S UTC") if value is not None else None
