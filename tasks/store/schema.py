"""Arrow schemas, version 1: what a plan and a shard look like. The only place that names their columns."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

SCHEMA_VERSION = 1
FOOTER_KEY = b"fixpoint"
"""Parquet footer entry of plans and shards: JSON with schema_version, attempt_id, counts and what the run adds."""

STAGES = ("read", "encode", "invert", "sample", "decode", "render", "write")
"""Where a photo's time goes; ``timings`` holds one number of seconds for each."""


def _field(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": meaning})


PICTURE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""The Hugging Face image convention."""

STEP = pa.struct(
    [
        _field("step", pa.int32(), "inversion step, 0 is the first away from the photo"),
        _field("timestep", pa.int32(), "the model's timestep t that the step leads to"),
        _field("iteration", pa.int32(), "fixed-point iteration within the step, from 1"),
        _field("intra", pa.float32(), "RMS(f(z) - z)"),
        _field("inter", pa.float32(), "RMS(f(z) - f(z')) of two paths; null where not measured"),
        _field("bound", pa.float32(), "certified bound on RMS(f(z) - z*)"),
        _field("rate", pa.float32(), "contraction rate used for the bound: max(r_t, estimated)"),
    ]
)

PATH = pa.struct(
    [
        _field("step", pa.int32(), "inversion step"),
        _field("timestep", pa.int32(), "the model's timestep t that the step leads to"),
        _field("path", pa.int32(), "path: 0 starts at z(t-1), the others at z(t-1) + n, n ~ N(0, I)"),
        _field("iteration", pa.int32(), "plain iteration z ← f(z); 0 is the start"),
        _field("x", pa.float32(), "first coordinate, RMS, from where path 0 ends"),
        _field("y", pa.float32(), "second coordinate, RMS, from where path 0 ends"),
        _field("distance", pa.float32(), "RMS distance to where path 0 ends"),
    ]
)

PLAN = pa.schema(
    [
        _field("shard", pa.int32(), "shard of this plan that holds the photo, from 0"),
        _field("row", pa.int32(), "row of the photo within its shard, from 0"),
        _field("key", pa.string(), "relative path of the photo under the source; names its output picture"),
        _field(
            "uri", pa.string(), "where the photo's bytes are read from; of a presigned web address with its signature"
        ),
        _field("size", pa.int64(), "bytes, where the listing tells"),
        _field("etag", pa.string(), "entity tag or modification time, where the listing tells"),
        _field("prompt", pa.string(), "source prompt of this photo; null = the run's"),
        _field("target_prompt", pa.string(), "target prompt of this photo; null = the run's"),
        _field("blended_word", pa.string(), "'source target' words for LocalBlend, or null"),
        _field("mask", pa.list_(pa.int32()), "PIE-Bench run-length mask [start, length, …], or null"),
        _field("edit_settings", pa.string(), "JSON object of this photo's own settings of the edit; null = the run's"),
        _field("editing_type", pa.string(), "PIE-Bench editing type, or null"),
        _field("seed", pa.int64(), "seed of this photo; null = derived from the run's seed and the photo's bytes"),
        _field("attempt", pa.int32(), "1, or 2, 3 … where a photo that failed is tried again; null = 1"),
        _field("problem", pa.string(), "why the manifest's line cannot be used: its photo fails; null if it can"),
    ]
)


def shard_schema(latent_shape: Sequence[int] | None = None) -> pa.Schema:
    """Schema v1 of a shard: one row a photo.

    ``latent_shape`` is (C, h, w) if all latents share it; otherwise latents are raw bytes beside their shape.
    """
    latent: pa.DataType = pa.binary()
    if latent_shape is not None:
        latent = pa.fixed_shape_tensor(pa.float16(), list(latent_shape))
    return pa.schema(
        [
            _field("plan", pa.int32(), "number of the plan, from 1"),
            _field("shard", pa.int32(), "number of the shard within the plan, from 0"),
            _field("row", pa.int32(), "row within the shard, from 0"),
            _field("key", pa.string(), "relative path of the photo under the source"),
            _field("image_id", pa.string(), "SHA-256 of the photo's bytes (hex); null if they could not be read"),
            _field(
                "source_uri",
                pa.string(),
                "where the photo was read from; of the web without query; in a table parquet+ADDRESS#column/row",
            ),
            _field("source_etag", pa.string(), "entity tag when read, where known"),
            _field("source_size", pa.int64(), "bytes"),
            _field("width", pa.int32(), "pixels, after EXIF rotation"),
            _field("height", pa.int32(), "pixels, after EXIF rotation"),
            _field("status", pa.string(), "ok or failed"),
            _field("error_code", pa.string(), "why it failed, as a word; null if ok"),
            _field("error_message", pa.string(), "why it failed, as a sentence that names the fix; null if ok"),
            _field("verdict", pa.string(), "own judgement: cleared, gently, unchanged, collapsed; null if failed"),
            _field("reason", pa.string(), "what was found and done, as a sentence; null if failed"),
            _field("strength", pa.float32(), "fraction of the edit, or of the gentle one, that was applied, 0 to 1"),
            _field("prompt", pa.string(), "source prompt of the inversion"),
            _field("target_prompt", pa.string(), "prompt of the regeneration"),
            _field("editing_type", pa.string(), "PIE-Bench editing type, or null"),
            _field("edit_settings", pa.string(), "JSON object of the edit's or the restoration's settings; else null"),
            _field("latent", latent, "inverted latent z_T, float16"),
            _field("latent_shape", pa.list_(pa.int32()), "(C, h, w) of the latent"),
            _field("output", PICTURE, "result at model size, or at the size haze is estimated at, PNG"),
            _field("haze_map", PICTURE, "density of haze, 0 to 1, in colour with a legend, PNG; null if none"),
            _field("reconstruction", PICTURE, "what the edit started from: its source branch, PNG; null if no edit"),
            _field(
                "attention_map",
                PICTURE,
                "what each word attends to, or the density of haze, labelled, PNG; null if not asked for",
            ),
            _field("invention_map", PICTURE, "how much of each place was invented, PNG; null if not asked for"),
            _field("output_path", pa.string(), "full-resolution picture, relative to the output root; null if none"),
            _field("output_sha256", pa.string(), "SHA-256 (hex) of the full-resolution picture's bytes"),
            _field(
                "metadata_dropped",
                pa.list_(pa.string()),
                "what of the photo's metadata its picture does not carry, and why; null if no picture was written",
            ),
            _field("inversion_status", pa.string(), "worst status of the steps: converged, max-iterations, …"),
            _field("steps", pa.list_(STEP), "one entry per inversion step and iteration"),
            _field(
                "sampling_status", pa.string(), "worst status of a consistent regeneration's steps; null for others"
            ),
            _field("sampling_steps", pa.list_(STEP), "as `steps`, of a consistent regeneration: 0 is the noisiest"),
            _field("nfe", pa.int32(), "rows of networks evaluated for this photo, in all"),
            _field("nfe_inversion", pa.int32(), "of these, in the inversion"),
            _field("metrics", pa.map_(pa.string(), pa.float64()), "measures by name, for instance psnr_input"),
            _field("timings", pa.struct([pa.field(stage, pa.float32()) for stage in STAGES]), "seconds by stage"),
            _field("batch_size", pa.int32(), "rows of the batch the photo was processed in"),
            _field("seed", pa.int64(), "seed of the photo's noise"),
            _field(
                "paths",
                pa.list_(PATH),
                "perturbed paths of a step under `prompt`, beside the run: first good photo of a plan's first shard, "
                "where `steps` is kept; not counted in `nfe`; else null",
            ),
            _field("attempt", pa.int32(), "1, or 2, 3 … where the photo had failed before; null = 1"),
            _field("processed_at", pa.timestamp("us", tz="UTC"), "when the photo was finished"),
            _field("run_id", pa.string(), "the run that committed the row; its time of start in UTC, then four digits"),
            _field("flow_run_id", pa.string(), "Prefect's id of the flow run that computed it; null without Prefect"),
            _field("model_digest", pa.string(), "SHA-256 over the files of the model; null without a model"),
        ]
    )


def latent_shape(schema: pa.Schema) -> list[int] | None:
    """(C, h, w) of the latents if a shard's schema fixes it, else None."""
    kind = schema.field("latent").type if "latent" in schema.names else None
    return list(kind.shape) if isinstance(kind, pa.FixedShapeTensorType) else None
