"""The analytics tables, column by column, and the documentation made from them (``python -m tasks.analytics.schema``)."""

from __future__ import annotations

import pyarrow as pa

from tasks.store.schema import PATH, PLAN, SCHEMA_VERSION, STAGES, STEP, shard_schema

TABLES_VERSION = 2
"""Raised when a table's columns change meaning; ``aggregate`` then rebuilds what older versions wrote."""

UNREAD = frozenset(
    "latent latent_shape output haze_map reconstruction attention_map invention_map sampling_status sampling_steps paths".split()
)
"""Columns of the ledger that no table is made from; aggregating never reads them."""
_RESHAPED = {"steps", "metrics", "timings"}


def _field(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": meaning})


STEPS = pa.schema(
    [
        _field("plan", pa.int32(), "number of the plan, from 1; plan, shard and row identify a row of `images`"),
        _field("shard", pa.int32(), "number of the shard within the plan, from 0"),
        _field("row", pa.int32(), "row within the shard, from 0"),
        _field("image_id", pa.string(), "SHA-256 of the photo's bytes (hex)"),
        _field("key", pa.string(), "relative path of the photo under the source"),
        _field("step", pa.int32(), "inversion step, 0 is the first away from the photo"),
        _field("timestep", pa.int32(), "the model's timestep t that the step leads to"),
        _field("iteration", pa.int32(), "fixed-point iteration within the step, from 1"),
        _field("intra", pa.float32(), "RMS(f(z) - z), in units of the latent"),
        _field("inter", pa.float32(), "RMS(f(z) - f(z')) of two paths; null where not measured"),
        _field("bound", pa.float32(), "certified bound on RMS(f(z) - z*)"),
        _field("rate", pa.float32(), "contraction rate used for the bound: max(r_t, estimated)"),
        _field(
            "nfe",
            pa.int32(),
            "rows of the UNet spent on the photo's inversion up to and including this iteration: "
            "one an iteration, two where `inter` is measured (`images.nfe_inversion` counts further paths too)",
        ),
        _field("last", pa.bool_(), "true for the iteration that ended its step"),
    ]
)

IMAGES = pa.schema(
    [field for field in shard_schema() if field.name not in UNREAD | _RESHAPED]
    + [
        _field("iterations", pa.int32(), "fixed-point iterations over all inversion steps; 0 where `steps` was off"),
        _field("metrics", pa.map_(pa.string(), pa.float64()), "measures by name, for instance psnr_input"),
    ]
    + [_field(f"seconds_{stage}", pa.float32(), f"seconds spent in the stage '{stage}'") for stage in STAGES]
    + [_field("seconds", pa.float32(), "seconds over all stages")]
)

_UTC = pa.timestamp("us", tz="UTC")

RUNS = pa.schema(
    [
        _field("output", pa.string(), "output root of the run, without credentials"),
        _field("method", pa.string(), "inversion method, where the shards name it"),
        _field("num_inference_steps", pa.int32(), "inversion steps, where the shards name them"),
        _field("device", pa.string(), "device of the first shard that names one"),
        _field("model_digest", pa.string(), "SHA-256 over the model's files"),
        _field("started_at", _UTC, "start of the earliest committed shard"),
        _field("finished_at", _UTC, "end of the latest committed shard"),
        _field("busy_seconds", pa.float64(), "time during which at least one committed shard was being worked on"),
        _field("shards", pa.int64(), "committed shards read"),
        _field("photos", pa.int64(), "rows, one a photo"),
        _field("ok", pa.int64(), "rows with status ok"),
        _field("failed", pa.int64(), "rows with status failed"),
        _field("nfe", pa.int64(), "rows of the UNet evaluated, all photos"),
        _field("alphas", pa.list_(pa.float64()), "cumulative alpha of the schedule, as the shards record it"),
        _field("configuration", pa.string(), "the run's configuration, JSON"),
        _field("versions", pa.string(), "versions of the software, JSON"),
    ]
)

SUMMARY = pa.schema(
    [
        _field("measure", pa.string(), "what is summarised: see the table of measures"),
        _field("name", pa.string(), "stage, error code, verdict or status; null where there is none"),
        _field("step", pa.int32(), "inversion step; null where the measure is not by step"),
        _field("count", pa.int64(), "values (photos, or photos in this step) that went in"),
        _field("share", pa.float64(), "count / photos of the run, 0 to 1; null where the measure is a quantity"),
        _field("total", pa.float64(), "sum; null where the measure is a share"),
        _field("mean", pa.float64(), "mean; null where the measure is a share"),
        *[
            _field(f"p{p:02d}", pa.float64(), f"{p} % quantile, linearly interpolated; null where a share")
            for p in (5, 25, 50, 75, 95)
        ],
        _field("max", pa.float64(), "largest; null where the measure is a share"),
    ]
)

CURRENT_COLUMNS = (
    "key image_id source_uri source_etag source_size width height verdict reason strength output_path output_sha256 "
    "processed_at run_id model_digest attempt plan shard row"
).split()
"""Columns of a shard that ``current/photos.parquet`` keeps."""
CURRENT = pa.schema(
    [shard_schema().field(name) for name in CURRENT_COLUMNS]
    + [
        _field("failed_since", pa.string(), "error code of a newer attempt at this photo, which failed; else null"),
        _field("gone_at", _UTC, "when the source was first found to list the photo no more; null if it does"),
        _field(
            "copied_sha256", pa.string(), "SHA-256 (hex) of its picture under current/images/; null if there is none"
        ),
    ]
)

TABLES = {"steps": STEPS, "images": IMAGES, "runs": RUNS, "summary": SUMMARY}

MEASURES = {
    "intra": "intra-path residual at the end of each step (by step)",
    "inter": "inter-path residual at the end of each step, where measured (by step)",
    "bound": "certified bound at the end of each step (by step)",
    "iterations": "iterations a step took (by step)",
    "nfe": "UNet rows a photo, in all",
    "nfe_inversion": "UNet rows a photo, in the inversion",
    "seconds": "seconds a photo; `name` = stage, or `all`",
    "status": "photos by status (share)",
    "inversion_status": "ok photos by the inversion's status; the convergence rate is the share of `converged` (share)",
    "verdict": "ok photos by verdict (share)",
    "failure": "failed photos by error code (share)",
}

_MEANING = {
    "steps": "One row a fixed-point iteration. Answers: how fast does it converge, where, for which photo?",
    "images": "One row a photo: every scalar of the ledger, measures and times; no latents, no pictures.",
    "runs": "One row a run (an output root).",
    "summary": "Quantiles and shares, ready to plot.",
}


def _rows(schema: pa.Schema | pa.StructType) -> list[str]:
    lines = ["| column | type | meaning |", "|---|---|---|"]
    for field in schema:
        meaning = (field.metadata or {}).get(b"description", b"").decode().replace("|", "\\|")
        kind = str(field.type).replace("list<element: ", "list<").replace("list<item: ", "list<")
        kind = {"steps": "list<step>", "sampling_steps": "list<step>", "paths": "list<path>"}.get(field.name, kind)
        lines.append(f"| `{field.name}` | `{kind}` | {meaning} |")
    return [*lines, ""]


def schema_markdown() -> str:
    """docs/SCHEMA.md: every column of the ledger and of the analytics tables, with its type and meaning."""
    lines = [
        "# What the Parquet files hold",
        "",
        "Generated from the code by `python -m tasks.analytics.schema > docs/SCHEMA.md`; a test keeps it current.",
        "",
        f"## The ledger (schema version {SCHEMA_VERSION})",
        "",
        "`<output>/shards/*.parquet` is exactly the committed truth: one row a photo, whatever became of it. (Where objects of",
        "compacted commits were removed, see `compacted/` below, the rest of it is there.)",
        "Any Parquet reader will do. The footer entry `fixpoint` holds the configuration, versions and model digest",
        "as JSON.",
        "",
        "### shards/NNNNNN-SSSSS.parquet",
        "",
        *_rows(shard_schema()),
        "Where all latents of a shard share one shape, `latent` is a fixed-shape float16 tensor instead of raw bytes.",
        "",
        "### compacted/NNNNNN.parquet",
        "",
        "The rows of many commits, written by `fixpoint compact`, in the columns of a shard, by `plan`, `shard`, `row` within",
        "each file. A commit is in one file at most, and may have its own object in `shards/` as well: the same rows. In the",
        "footer entry `fixpoint`, `common` is what the footers of all these commits say, and `commits` has for each of them",
        "`[plan, shard, row group, first row in it, rows, entity tag of its object, what else its footer says]`.",
        "",
        "### The entries of `steps`",
        "",
        *_rows(STEP),
        "### The entries of `paths`",
        "",
        *_rows(PATH),
        "### plans/NNNNNN.parquet",
        "",
        *_rows(PLAN),
        f"## The analytics tables (version {TABLES_VERSION})",
        "",
        "Written by `aggregate`, derived from the ledger, free to delete. Each lies at",
        "`<destination>/<table>/run=<run>/part-*.parquet`: `run` is a Hive partition column that readers add by",
        "themselves. It is the last part of the output's name and eight hex digits of its URL's SHA-256.",
        "",
    ]
    for name, schema in TABLES.items():
        lines += [f"### {name}", "", _MEANING[name], "", *_rows(schema)]
    lines += [
        "### current/photos.parquet",
        "",
        "Written by `fixpoint current` into the output itself: one row for each photo that ever was good, its newest good",
        "row, sorted by key.",
        "",
        *_rows(CURRENT),
    ]
    lines += ["### Measures of `summary`", "", "| measure | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in MEASURES.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(schema_markdown(), end="")
