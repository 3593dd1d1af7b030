"""Metrics of a run for Prometheus, by a file that node_exporter's textfile collector reads."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path

from flows.figures import Figures
from tasks.store.names import output_name
from tasks.store.uris import parse

log = logging.getLogger(__name__)
METRICS_FOLDER = "FIXPOINT_METRICS_FOLDER"
"""Setting of the environment: a folder that the textfile collector of Prometheus' node_exporter reads."""
METRICS = {
    "processed": ("fixpoint_run_photos", "photos of the last run"),
    "failed": ("fixpoint_run_failed_photos", "failed photos of the last run"),
    "evaluations": ("fixpoint_run_evaluations", "evaluations of the network in the last run"),
    "seconds": ("fixpoint_run_seconds", "how long the last run took"),
    "photos_in_all": ("fixpoint_photos", "photos of the output, by the newest row of each"),
    "done_in_all": ("fixpoint_done_photos", "photos of the output that are done"),
    "failed_in_all": ("fixpoint_failed_photos", "photos of the output that have failed last"),
    "open_shards": ("fixpoint_open_shards", "shards that are planned and not committed"),
}
"""Name and meaning of the gauges, by the figure they show."""


def write_metrics(figures: Figures) -> None:
    """Metrics of the run for Prometheus, in the folder that the environment names; a problem there fails no run."""
    if not (folder := os.environ.get(METRICS_FOLDER)):
        return
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry, label = CollectorRegistry(), {"output": figures.output, "operation": figures.operation}
    for name, value in asdict(figures).items():
        if name in METRICS:
            Gauge(METRICS[name][0], METRICS[name][1], label, registry=registry).labels(**label).set(value)
    degraded = Gauge(
        "fixpoint_run_degraded", "1 if a photo failed or a shard is open, else 0", label, registry=registry
    )
    degraded.labels(**label).set(figures.degraded)
    ended = Gauge("fixpoint_run_ended_timestamp_seconds", "when the last run ended", label, registry=registry)
    ended.labels(**label).set_to_current_time()
    codes = Gauge("fixpoint_run_failures", "failed photos by error code", [*label, "code"], registry=registry)
    for code, count in figures.codes.items():
        codes.labels(**label, code=code).set(count)
    try:
        write_to_textfile(str(Path(folder) / f"fixpoint-{output_name(parse(figures.output))}.prom"), registry)
    except OSError as error:
        log.warning("the metrics cannot be written to %s (%s): see %s", folder, error, METRICS_FOLDER)
