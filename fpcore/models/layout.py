"""Look at a model folder before anything in it is loaded, and refuse what could run code.

Only JSON, tokenizer text and safetensors are ever opened. Classes come from a fixed list, never from the folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from safetensors import SafetensorError, safe_open

from fpcore.models.sizes import check_schedule, check_sizes, check_tokenizer, shapes_of

CLIP_TOKENIZERS, T5_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast"), ("T5Tokenizer", "T5TokenizerFast")
ALLOWED_CLASSES: dict[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "transformer": ("SD3Transformer2DModel", "FluxTransformer2DModel"),
    "vae": ("AutoencoderKL", "AutoencoderTiny", "SpaceToDepth"),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection", "T5EncoderModel"),
    "text_encoder_3": ("T5EncoderModel",),
    "tokenizer": CLIP_TOKENIZERS,
    "tokenizer_2": (*CLIP_TOKENIZERS, *T5_TOKENIZERS),
    "tokenizer_3": T5_TOKENIZERS,
    "scheduler": (*DDIMScheduler._compatibles, FlowMatchEulerDiscreteScheduler.__name__),
}
"""The components Fixpoint loads and the classes each may have."""

CONFIG_FILE = {
    "unet": "config.json",
    "transformer": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "text_encoder_2": "config.json",
    "text_encoder_3": "config.json",
    "tokenizer": "tokenizer_config.json",
    "tokenizer_2": "tokenizer_config.json",
    "tokenizer_3": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
WEIGHT_STEM = {
    "unet": "diffusion_pytorch_model",
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "text_encoder_3": "model",
}
TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
UNUSED_BUT_HARMLESS = ("safety_checker", "feature_extractor", "image_encoder")
TRUSTED_LIBRARIES = (None, "diffusers", "transformers", "stable_diffusion", "fpcore.models.codec")
CODE_KEYS = (
    "auto_map",
    "custom_pipeline",
    "custom_pipelines",
    "trust_remote_code",
    "quantization_config",
    "kernel_config",
)
"""Settings by which a configuration can make a library import, download or run something."""
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
LARGEST_JSON = 64 * 2**20


class UnsafeModelError(ValueError):
    """The folder holds something that could run code, or weights that are not what they claim to be."""


@dataclass(frozen=True)
class Component:
    """One checked folder: its class, its configuration and its files."""

    folder: Path
    class_name: str
    config: dict[str, Any]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Layout:
    """A checked model in diffusers layout."""

    folder: Path
    components: dict[str, Component]
    index: dict[str, Any]

    def digest(self) -> str:
        """SHA-256 over the names and bytes of all files the model is made from: weights, configurations, vocabulary."""
        total = hashlib.sha256()
        for file in sorted(f for component in self.components.values() for f in component.files):
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            total.update(f"{file.relative_to(self.folder).as_posix()}\0{content}\n".encode())
        return total.hexdigest()


def read_layout(folder: Path, variant: str | None = None) -> Layout:
    """Check a folder in diffusers layout and list what to load from it.

    Args:
        folder: holds unet (or transformer), vae, text_encoder, tokenizer, scheduler (SDXL: text_encoder_2, tokenizer_2 too).
        variant: which weight files, as in ``diffusion_pytorch_model.fp16.safetensors``; None for the plain names.

    Raises:
        UnsafeModelError: pickle weights only, custom code, unknown classes, broken safetensors; nothing was executed.
        ValueError: not a model in diffusers layout, or files missing.
    """
    names = [name for name in ALLOWED_CLASSES if (folder / name).is_dir()]
    network = "transformer" if "transformer" in names else "unet"
    missing = [name for name in (network, "vae", "text_encoder", "tokenizer", "scheduler") if name not in names]
    if missing:
        raise ValueError(_explain_missing(folder, missing))
    _refuse_code(folder)
    _refuse_links_out(folder)
    index_file = folder / "model_index.json"
    index = _read_config(index_file, folder) if index_file.is_file() else {}
    _check_index(index)
    return Layout(folder, {name: _read_component(folder, name, variant, index) for name in names}, index)


def _refuse_code(folder: Path) -> None:
    for file in sorted(folder.rglob("*.py")):
        raise UnsafeModelError(
            f"{file.relative_to(folder)} is program code, and a model needs none. Fixpoint does not load models with "
            "custom code; remove the file if the model works without it, or use another model"
        )


def _refuse_links_out(folder: Path) -> None:
    """Links may stay in the folder, or lead to the blobs that the hub's cache keeps beside its snapshots."""
    home = folder.resolve()
    allowed = (home, home.parents[1] / "blobs") if home.parent.name == "snapshots" else (home,)
    for file in sorted(folder.rglob("*")):
        if file.is_symlink() and not any(file.resolve().is_relative_to(place) for place in allowed):
            raise UnsafeModelError(
                f"{file.relative_to(folder)} is a link out of the model's folder: copy the file instead"
            )


def _check_index(index: dict[str, Any]) -> None:
    """Every entry of model_index.json names a class we know, or a part we do not load from a library we know."""
    pipeline = index.get("_class_name", "")
    if not isinstance(pipeline, str):
        raise UnsafeModelError(f"model_index.json names a custom pipeline, {pipeline!r}; Fixpoint runs no custom code")
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list):
            continue
        library, class_name = (*entry, None, None)[:2]
        known = class_name in ALLOWED_CLASSES.get(name, ()) or name in UNUSED_BUT_HARMLESS
        if library not in TRUSTED_LIBRARIES or (class_name is not None and not known):
            raise UnsafeModelError(
                f"model_index.json: {name} is a {library}.{class_name}, which Fixpoint does not know and will not run"
            )


def _explain_missing(folder: Path, missing: list[str]) -> str:
    if (folder / "text_encoder_2").is_dir() and missing == ["text_encoder", "tokenizer"]:
        return f"{folder} looks like an SDXL refiner; give the SDXL base model instead"
    return (
        f"{folder} is no Stable Diffusion model in diffusers layout: it has no folder {', '.join(missing)}. A single "
        "checkpoint file must be converted first, in diffusers: "
        "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
    )


def _read_config(file: Path, folder: Path) -> dict[str, Any]:
    """A JSON object without settings that run code."""
    name = file.relative_to(folder)
    if not file.is_file():
        raise ValueError(f"{name} is missing from {folder}")
    if file.stat().st_size > LARGEST_JSON:
        raise UnsafeModelError(f"{name} is larger than {LARGEST_JSON >> 20} MiB, too large for a configuration")
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnsafeModelError(f"{name} is not valid JSON ({type(error).__name__})") from None
    if not isinstance(config, dict):
        raise UnsafeModelError(f"{name} holds no JSON object")
    _refuse_code_settings(config, name)
    return config


def _refuse_code_settings(value: object, name: Path) -> None:
    if isinstance(value, list):
        for item in value:
            _refuse_code_settings(item, name)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        # "attn_implementation": "org/repo" makes transformers fetch and import a kernel from the hub.
        fetches_kernel = key.endswith("attn_implementation") and "/" in str(item)
        if (key in CODE_KEYS and item) or fetches_kernel:
            raise UnsafeModelError(f"{name} sets {key}, which loads custom code; Fixpoint runs none")
        _refuse_code_settings(item, name)


def _read_component(folder: Path, name: str, variant: str | None, index: dict[str, Any]) -> Component:
    part = folder / name
    config_file = part / CONFIG_FILE[name]
    config = _read_config(config_file, folder)
    class_name = _class_name(name, config) or _indexed_class(index.get(name))
    if class_name not in ALLOWED_CLASSES[name]:
        raise UnsafeModelError(
            f"{name} is a {class_name}; Fixpoint loads only {', '.join(ALLOWED_CLASSES[name])} there"
        )
    if (part / "adapter_config.json").exists():
        raise UnsafeModelError(f"{name}/adapter_config.json makes the loader fetch another model: merge the adapter")
    if name.startswith("tokenizer"):
        _bounded(name, check_tokenizer, config)
        return Component(part, class_name, config, _tokenizer_files(part, class_name))
    if name == "scheduler" or class_name == "SpaceToDepth":
        if name == "scheduler":
            _bounded(name, check_schedule, config)
        return Component(part, class_name, config, (config_file,))
    weights = find_weights(part, WEIGHT_STEM[name], variant)
    for file in weights:
        check_safetensors(file)
    shapes = [shape for file in weights if file.suffix == ".safetensors" for shape in shapes_of(file)]
    _bounded(name, check_sizes, config, class_name, shapes)
    return Component(part, class_name, config, (config_file, *weights))


def _bounded(name: str, check: Callable[..., None], *what: Any) -> None:
    try:
        check(*what)
    except (ValueError, OverflowError) as error:
        raise UnsafeModelError(f"{name}'s configuration cannot be true: {error}") from None


def _class_name(name: str, config: dict[str, Any]) -> object:
    if name.startswith("text_encoder"):
        return (config.get("architectures") or [None])[0]
    if name.startswith("tokenizer"):
        return config.get("tokenizer_class", "CLIPTokenizer")
    return config.get("_class_name")


def _indexed_class(entry: object) -> object:
    """What model_index.json says, as the pipeline goes by; for configurations that do not name their class."""
    return entry[1] if isinstance(entry, list) and len(entry) > 1 else None


def _tokenizer_files(part: Path, class_name: str) -> tuple[Path, ...]:
    files = tuple(part / name for name in TOKENIZER_FILES if (part / name).is_file())
    names = {file.name for file in files}
    if large := [file.name for file in files if file.stat().st_size > LARGEST_JSON]:
        raise UnsafeModelError(
            f"{part.name}/{large[0]} is larger than {LARGEST_JSON >> 20} MiB, too large for a vocabulary"
        )
    if class_name in T5_TOKENIZERS and "tokenizer.json" not in names:  # spiece.model is no text, and is not opened
        raise ValueError(f"{part} has no tokenizer.json: save it once with transformers' T5TokenizerFast")
    if not ({"vocab.json", "merges.txt"} <= names or "tokenizer.json" in names):
        raise ValueError(f"{part} has no vocabulary: vocab.json and merges.txt, or tokenizer.json")
    return files


def find_weights(part: Path, stem: str, variant: str | None = None) -> tuple[Path, ...]:
    """The safetensors files of a component: one file, or the shards that its index names.

    Raises:
        UnsafeModelError: only pickle files are there, or the index points outside the folder.
        ValueError: no weights of this variant; the message lists the variants there are.
    """
    infix = f".{variant}" if variant else ""
    single, index = part / f"{stem}{infix}.safetensors", part / f"{stem}.safetensors.index{infix}.json"
    if single.is_file():
        return (single,)
    if index.is_file():
        return (index, *_shards(part, index))
    others = sorted(part.glob("*.safetensors"))
    if others:
        raise ValueError(
            f"{part.name} has no {single.name}; it has {', '.join(f.name for f in others[:4])}: set variant to match"
        )
    pickles = sorted(f.name for f in part.iterdir() if f.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise UnsafeModelError(
            f"{part.name}/{pickles[0]} is a pickle file, which can run code when opened, and there is no safetensors "
            "file beside it. Use a revision of the model with safetensors, or convert it where you trust it"
        )
    raise ValueError(f"{part.name} has no weights: {single.name} is missing")


def _shards(part: Path, index: Path) -> list[Path]:
    weight_map = _read_config(index, part.parent).get("weight_map")
    if not isinstance(weight_map, dict):
        raise UnsafeModelError(f"{part.name}/{index.name} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise UnsafeModelError(f"{part.name}/{index.name}: {name!r} is no safetensors file of this folder")
        if not (part / name).is_file():
            raise ValueError(f"{part.name}/{name} is missing; download the model again")
    return [part / name for name in names]


def check_safetensors(file: Path) -> None:
    """Let safetensors validate the header: length, JSON, dtypes, offsets without holes or overlap, end of file.

    Raises:
        UnsafeModelError: the header is broken; no tensor was read.
    """
    if file.suffix != ".safetensors":
        return
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UnsafeModelError(f"{file.parent.name}/{file.name} is no valid safetensors file: {error}") from None
