"""The settings of each operation as people fill them in: groups with titles, and nothing of other operations.

A flow takes ``RunConfig`` all the same: in groups, as the form of a deployment sends it, or flat, as ``run.json`` has it.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple, cast

from pydantic import BeforeValidator, WithJsonSchema

from tasks.config import RunConfig


class Group(NamedTuple):
    """Some settings under one title."""

    title: str
    fields: tuple[str, ...]


INVERSION = Group(
    "Inversion",
    ("method", "num_inference_steps", "timestep_spacing", "steps_offset", "guess", "tolerance", "iterations", "damping",
     "anderson"),
)  # fmt: skip
SAMPLED = Group(INVERSION.title, ("sampler", *INVERSION.fields))
PICTURES = Group(
    "Output", ("image_format", "quality", "chroma", "metadata", "provenance", "save_latents", "save_steps")
)
MODEL = Group(
    "Model and device",
    ("pretrained_model_name_or_path", "revision", "variant", "device", "torch_dtype", "batch_size"),
)  # fmt: skip
ADVANCED = Group(
    "Advanced",
    ("seed", "shard_size", "max_pixels", "photo_timeout", "on_oom", "vae_dtype", "attention", "vae_slicing", "vae_tiling",
     "cpu_offload", "compile", "onnx", "local_files_only"),
)  # fmt: skip
COMMON = {"pictures": PICTURES, "model": MODEL, "advanced": ADVANCED}

FORMS: dict[str, dict[str, Group]] = {
    "dehaze": {
        "dehazing": Group(
            "Dehazing",
            ("dehaze_variant", "strength", "haze_weights", "white_balance", "mask_folder", "depth_folder", "attention_maps",
             "prompt", "target_prompt", "guidance_scale"),
        ),
        "inversion": INVERSION,
        **COMMON,
    },
    "edit": {
        "editing": Group(
            "Editing",
            ("prompt", "target_prompt", "guidance", "guidance_scale", "blended_word", "reweight", "amplify", "tokens",
             "cross_replace", "self_replace", "blend_start", "blend_threshold", "padding", "mask", "masks", "strength",
             "attention_maps", "inventing"),
        ),
        "inversion": SAMPLED,
        **COMMON,
    },
    "invert": {"words": Group("Words", ("prompt",)), "inversion": SAMPLED, **COMMON},
    "restore": {
        "restoration": Group(
            "Restoration",
            ("task", "mask_folder", "scale", "prompt", "target_prompt", "noise_level", "colour_start", "invention_map",
             "inventing"),
        ),
        "inversion": INVERSION,
        **COMMON,
    },
}  # fmt: skip
"""Groups of each operation's settings, in the order of the form. ``operation`` is the flow's own."""
DEFAULTS = {"restore": {"pretrained_model_name_or_path": "builtin:scenes"}}
"""What an operation takes where nothing is said, if that is not the configuration's own default."""
TITLES = {"dehaze_variant": "Method Of Dehazing", "pretrained_model_name_or_path": "Model"}
"""Fields whose names say less in a form than elsewhere."""
NOTHING_SAID = cast(RunConfig, {})
"""Default of a flow's settings; Prefect makes a ``RunConfig`` of it as of any other value."""


def flat(given: dict[str, Any]) -> dict[str, Any]:
    """Settings without their groups; settings that stand alone stay as they are."""
    groups = {name for form in FORMS.values() for name in form}
    found: dict[str, Any] = {}
    for name, value in given.items():
        found |= value if name in groups and isinstance(value, dict) else {name: value}
    return found


def grouped(operation: str, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings in the groups of an operation's form.

    Raises:
        ValueError: for settings that the operation does not have.
    """
    form = FORMS[operation]
    known = {field for group in form.values() for field in group.fields}
    if strange := sorted(settings.keys() - known - {"operation"}):
        raise ValueError(f"{', '.join(strange)}: no setting of {operation}; 'fixpoint settings' lists them all")
    found = {name: {f: settings[f] for f in group.fields if f in settings} for name, group in form.items()}
    return {name: values for name, values in found.items() if values}


def schema_of(operation: str) -> dict[str, Any]:
    """JSON schema of an operation's settings in groups: what a form shows and a deployment's parameters are held to."""
    fields = RunConfig.model_json_schema()["properties"]
    groups = {
        name: {
            "title": group.title,
            "type": "object",
            "position": place,
            "additionalProperties": False,
            "properties": {f: {**fields[f], **_own(operation, f), "position": i} for i, f in enumerate(group.fields)},
        }
        for place, (name, group) in enumerate(FORMS[operation].items())
    }
    return {"type": "object", "title": "Settings", "additionalProperties": False, "properties": groups}


def _own(operation: str, field: str) -> dict[str, Any]:
    """What a form says otherwise than the configuration does."""
    said = {"title": TITLES[field]} if field in TITLES else {}
    own = DEFAULTS.get(operation, {})
    return said | ({"default": own[field]} if field in own else {})


def _taken_from(operation: str) -> BeforeValidator:
    def take(given: object) -> object:
        if not isinstance(given, dict):
            return given
        return {**DEFAULTS.get(operation, {}), **flat(given), "operation": operation}

    return BeforeValidator(take)


DehazeSettings = Annotated[RunConfig, _taken_from("dehaze"), WithJsonSchema(schema_of("dehaze"))]
EditSettings = Annotated[RunConfig, _taken_from("edit"), WithJsonSchema(schema_of("edit"))]
InvertSettings = Annotated[RunConfig, _taken_from("invert"), WithJsonSchema(schema_of("invert"))]
RestoreSettings = Annotated[RunConfig, _taken_from("restore"), WithJsonSchema(schema_of("restore"))]
