"""Load a model by name: built in, from a folder, or from the hub. No pickle, no custom code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from huggingface_hub import snapshot_download
from packaging.version import InvalidVersion, Version

from fpcore.models.codec import SpaceToDepth
from fpcore.models.compiled import Compiled
from fpcore.models.flow import FlowScheduler
from fpcore.models.layout import T5_TOKENIZERS, TOKENIZER_FILES, WEIGHT_STEM, Component, Layout, read_layout
from fpcore.models.memory import Attention, place, set_attention
from fpcore.models.model import FLOW_FAMILIES, Family, Model
from fpcore.models.onnx_runtime import OnnxUNet, is_installed

INPAINTING = (9, 4)
"""Channels in and out of the UNets trained for inpainting: noise, hole and the picture around it (Rombach et al. 2022)."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
BUILTIN = Path(__file__).parents[1] / "builtin"
"""Where the shipped models lie. A path, because how they are trained (``fpcore.builtin``) needs this room, not this that."""
UNFED = ("time_cond_proj_dim", "class_embed_type", "num_class_embeds", "encoder_hid_dim", "encoder_hid_dim_type")
"""Settings by which a UNet takes conditions beside text and time. Left unfed it would answer, and wrongly."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_model(
    pretrained_model_name_or_path: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    torch_dtype: str | torch.dtype = "auto",
    text_encoder_dtype: str | torch.dtype = "auto",
    vae_dtype: str | torch.dtype = "float32",
    device: str | torch.device = "auto",
    local_files_only: bool = False,
    attention: Attention = "sdpa",
    vae_slicing: bool = False,
    vae_tiling: bool = False,
    cpu_offload: bool = False,
    compile: bool = False,
    onnx: bool | None = None,
    timestep_spacing: str | None = None,
    steps_offset: int | None = None,
    inpainting: bool = False,
) -> Model:
    """Load Stable Diffusion 1.x, 2.x, XL, 3.x, FLUX.1 or a built-in model.

    Args:
        pretrained_model_name_or_path: ``builtin:haze``, ``builtin:scenes``, a folder in diffusers layout, or a hub id.
        revision: branch, tag or commit of a hub model.
        variant: as in ``diffusion_pytorch_model.fp16.safetensors``.
        torch_dtype: the UNet's; "auto" is float16 on CUDA (built-in models: float32), float32 elsewhere.
        text_encoder_dtype: "auto" is the UNet's.
        vae_dtype: float32 because many VAEs overflow in float16.
        device: "auto" takes CUDA, else Apple's MPS, else the CPU.
        local_files_only: never touch the network; a hub model must be in the local cache.
        attention: "sdpa" is PyTorch's fused attention; "sliced" needs the least memory and is slow.
        vae_slicing: decode pictures of a batch one by one.
        vae_tiling: encode and decode large pictures in overlapping tiles.
        cpu_offload: keep each component in main memory except while it computes; needs a GPU.
        compile: compile the UNet for each batch shape it meets; minutes at the start, for long runs.
        onnx: evaluate a built-in UNet by ONNX Runtime; None: where it is installed, on a processor, in float32.
        steps_offset: added to leading timesteps; None is the model's own, and 1 for Stable Diffusion 1 and 2.
        timestep_spacing: trailing, leading, linspace or log-sigma instead of the one that the model's scheduler names.
        inpainting: accept a nine-channel UNet, which is told the hole and the picture around it.

    Raises:
        UnsafeModelError: the model could run code or its files are broken; nothing was executed.
        ValueError: no such model, no diffusers layout, unsupported architecture or setting.
    """
    target = pick_device(device)
    if cpu_offload and target.type == "cpu":
        raise ValueError("cpu_offload moves components to a GPU while they compute; without a GPU leave it off")
    if cpu_offload and compile:
        raise ValueError(
            "cpu_offload moves the UNet to and fro, which a compiled UNet does not allow: choose one of both"
        )
    name = pretrained_model_name_or_path
    layout = read_layout(find_folder(name, revision, variant, local_files_only), variant)
    family = detect_family(layout, inpainting)
    unet_dtype = pick_dtype(torch_dtype, torch.float16 if target.type == "cuda" and family != "builtin" else None)
    text_dtype = pick_dtype(text_encoder_dtype, unet_dtype)
    components = layout.components
    if family in FLOW_FAMILIES and (compile or attention != "sdpa"):
        raise ValueError(f"{family} runs with attention=sdpa and without compile only")
    unet = _load_diffusers(components["transformer" if family in FLOW_FAMILIES else "unet"], variant, unet_dtype)
    vae = _load_vae(components["vae"], variant, pick_dtype(vae_dtype, torch.float32), vae_slicing, vae_tiling)
    encoders = [
        _load_text_encoder(components[f"text_encoder{i}"], variant, text_dtype) for i in _suffixes(family, layout)
    ]
    _modernise(unet, family)
    set_attention(unet, attention)
    place([unet, vae, *encoders], target, cpu_offload)
    fits = name.startswith("builtin:") and (target.type, unet_dtype, attention) == ("cpu", torch.float32, "sdpa")
    if onnx and not (fits and not compile):
        raise ValueError("onnx takes a built-in model on the processor, in float32, with attention=sdpa, not compiled")
    made = Model(
        name=name,
        family=family,
        unet=Compiled(unet) if compile else unet,
        vae=vae,
        text_encoders=tuple(encoders),
        tokenizers=tuple(_load_tokenizer(components[f"tokenizer{i}"]) for i in _suffixes(family, layout)),
        scheduler=(
            _load_flow_scheduler(components["scheduler"], family)
            if family in FLOW_FAMILIES
            else _load_scheduler(components["scheduler"], family, timestep_spacing, steps_offset)
        ),
        device=target,
        digest=layout.digest(),
        zero_null_text=family == "sdxl" and bool(layout.index.get("force_zeros_for_empty_prompt", True)),
    )
    if onnx or (onnx is None and fits and not compile and is_installed() and graph_of(name).is_file()):
        return _by_onnx_runtime(made)
    return made


def graph_of(name: str) -> Path:
    """Where the ONNX graph of a built-in model lies."""
    return BUILTIN / "graphs" / f"{name.removeprefix('builtin:')}.onnx"


def _by_onnx_runtime(model: Model) -> Model:
    """The built-in model with its UNet evaluated by ONNX Runtime. Raises ValueError if that is not installed."""
    if not is_installed():
        raise ValueError("ONNX Runtime is not installed: pip install 'fixpoint-diffusion[onnx]', or leave onnx out")
    words = tuple(model.embed([""]).embeddings.shape[1:])
    return replace(model, unet=OnnxUNet(model.unet, graph_of(model.name), model.latent_shape(*model.image_size), words))


def find_folder(name: str, revision: str | None, variant: str | None, local_files_only: bool) -> Path:
    """The folder of a model; a hub model's safetensors, configurations and vocabularies are fetched into the hub cache.

    Raises:
        ValueError: there is no such model, or the hub cannot be reached.
    """
    if name.startswith("builtin:"):
        return _builtin_folder(name)
    if name and Path(name).is_dir():
        return Path(name)
    for what, text in (("revision", revision), ("variant", variant)):
        if text is not None and (".." in text or text.startswith("/") or "\\" in text):
            raise ValueError(f"{what} {text!r} leads out of its place: write it without '..'")
    if not HUB_ID.fullmatch(name) or ".." in name:
        raise ValueError(
            f"no model {name!r}: give builtin:haze, builtin:scenes, a diffusers folder, or a hub id (owner/name)"
        )
    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=hub_files(variant), local_files_only=local_files_only
            )
        )
    except (OSError, ValueError) as error:  # the hub's and its HTTP client's errors are OSErrors
        raise ValueError(
            f"cannot fetch {name} from the hub ({type(error).__name__}): check the name, revision and network; a gated "
            "model needs HF_TOKEN in the environment"
        ) from error


def _builtin_folder(name: str) -> Path:
    shipped = sorted(f"builtin:{folder.parent.name}" for folder in BUILTIN.glob("*/unet"))
    if name not in shipped:
        raise ValueError(f"there is no {name}; this installation has {', '.join(shipped) or 'no built-in model'}")
    return BUILTIN / name.removeprefix("builtin:")


def hub_files(variant: str | None) -> list[str]:
    """Patterns of the files worth fetching; neither pickle nor code is among them."""
    infix = f".{variant}" if variant else ""
    patterns = ["model_index.json", "scheduler/scheduler_config.json"]
    patterns += [f"{part}/{file}" for part in ("tokenizer", "tokenizer_2", "tokenizer_3") for file in TOKENIZER_FILES]
    for part, stem in WEIGHT_STEM.items():
        names = ("config.json", f"{stem}{infix}.safetensors", f"{stem}.safetensors.index{infix}.json")
        shards = (f"{stem}-*-of-*{infix}.safetensors", f"{stem}{infix}-*-of-*.safetensors")
        patterns += [f"{part}/{file}" for file in (*names, *shards)]
    return patterns


def detect_family(layout: Layout, inpainting: bool = False) -> Family:
    """Which layout this is, from the configurations alone.

    Raises:
        ValueError: a UNet that Fixpoint cannot drive (inpainting, upscaling, a refiner, image conditions …).
    """
    if "transformer" in layout.components:
        return _flow_family(layout)
    if layout.components["scheduler"].class_name == FlowMatchEulerDiscreteScheduler.__name__:
        raise ValueError("a UNet with a flow-matching scheduler is no model that Fixpoint knows")
    unet = layout.components["unet"].config
    channels = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if channels[0] != channels[1] and not (inpainting and channels == INPAINTING):
        raise ValueError("this UNet takes more than noise and text (inpainting, upscaling, depth); use the base model")
    unfed = [name for name in UNFED if unet.get(name)]
    if unfed:
        raise ValueError(
            f"this UNet wants conditions that Fixpoint does not feed ({', '.join(unfed)}; a distilled LCM, an unCLIP or an "
            "upscaling model?): use the model it was made from"
        )
    added = unet.get("addition_embed_type")
    if added == "text_time":
        missing = {"text_encoder_2", "tokenizer_2"} - layout.components.keys()
        if missing:
            raise ValueError(f"an SDXL model without {', '.join(sorted(missing))}; it is incomplete")
        return "sdxl"
    if added is not None:
        raise ValueError("this UNet needs conditions other than text; use Stable Diffusion 1.x, 2.x or XL")
    if layout.components["vae"].class_name == "SpaceToDepth":
        return "builtin"
    return "sd2" if unet.get("use_linear_projection") else "sd1"


def _flow_family(layout: Layout) -> Family:
    """SD 3 or FLUX, by the transformer's class and what it takes."""
    network, parts = layout.components["transformer"], layout.components.keys()
    family: Family = "sd3" if network.class_name == "SD3Transformer2DModel" else "flux"
    channels = network.config.get("in_channels", 16 if family == "sd3" else 64)
    if (network.config.get("out_channels") or channels) != channels:
        raise ValueError("this transformer takes more than noise and text (fill, control, redux); use the base model")
    needed = {"text_encoder_2", "tokenizer_2"}
    if "text_encoder_3" in parts:
        needed.add("tokenizer_3")
    missing = needed - parts
    if missing:
        raise ValueError(f"a model of the {family} family without {', '.join(sorted(missing))}; it is incomplete")
    if layout.components["scheduler"].class_name != FlowMatchEulerDiscreteScheduler.__name__:
        raise ValueError(f"a model of the {family} family needs a FlowMatchEulerDiscreteScheduler")
    return family


def pick_device(device: str | torch.device) -> torch.device:
    """The device itself, or the best there is for "auto"."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(dtype: str | torch.dtype, auto: torch.dtype | None) -> torch.dtype:
    """The dtype by its name, or ``auto`` (float32 if None) for "auto"."""
    if isinstance(dtype, torch.dtype):
        return dtype
    choices = {"auto": auto or torch.float32, **DTYPES}
    if dtype not in choices:
        raise ValueError(f"unknown dtype {dtype!r}; choose among {', '.join(choices)}")
    return choices[dtype]


def _suffixes(family: Family, layout: Layout) -> tuple[str, ...]:
    """Of the text encoders and tokenizers."""
    if family == "sd3" and "text_encoder_3" in layout.components:
        return ("", "_2", "_3")
    return ("", "_2") if family in ("sdxl", *FLOW_FAMILIES) else ("",)


def _load_diffusers(component: Component, variant: str | None, dtype: torch.dtype) -> Any:
    loader = getattr(diffusers, component.class_name)  # a name of ALLOWED_CLASSES
    with _plain_errors(component):
        module, info = loader.from_pretrained(
            component.folder,
            variant=variant,
            torch_dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    _refuse_gaps(component, info)
    return module


def _load_vae(component: Component, variant: str | None, dtype: torch.dtype, slicing: bool, tiling: bool) -> Any:
    if component.class_name == "SpaceToDepth":
        return SpaceToDepth.from_config(component.config)
    vae = _load_diffusers(component, variant, dtype)
    if slicing:
        vae.enable_slicing()
    if tiling:
        vae.enable_tiling()
    return vae


def _load_text_encoder(component: Component, variant: str | None, dtype: torch.dtype) -> Any:
    loader = getattr(transformers, component.class_name)  # a name of ALLOWED_CLASSES
    with _plain_errors(component), _no_progress_bar():
        module, info = loader.from_pretrained(
            component.folder,
            variant=variant,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    _refuse_gaps(component, info)
    return module


def _load_tokenizer(component: Component) -> Any:
    names: Any = transformers
    kind = names.T5TokenizerFast if component.class_name in T5_TOKENIZERS else names.CLIPTokenizer
    with _plain_errors(component):
        return kind.from_pretrained(component.folder, local_files_only=True)


def _load_scheduler(
    component: Component, family: Family, timestep_spacing: str | None, steps_offset: int | None
) -> DDIMScheduler:
    """DDIM with the model's own noise schedule and prediction type; never clipping, which has no inverse.

    For Stable Diffusion 1 and 2 ``steps_offset`` is 1 whatever an old configuration says, as diffusers' pipeline has it.
    """
    loader: Any = DDIMScheduler
    changed: dict[str, Any] = {"clip_sample": False, "thresholding": False}
    if timestep_spacing is not None:
        changed["timestep_spacing"] = timestep_spacing
    if steps_offset is not None:
        changed["steps_offset"] = steps_offset
    elif family in ("sd1", "sd2"):
        changed["steps_offset"] = 1
    scheduler: DDIMScheduler = loader.from_config(component.config, **changed)
    return scheduler


def _load_flow_scheduler(component: Component, family: Family) -> FlowScheduler:
    """The model's own flow-matching scheduler; never stochastic, which has no inverse."""
    loader: Any = FlowMatchEulerDiscreteScheduler
    scheduler = loader.from_config(component.config, stochastic_sampling=False)
    return FlowScheduler(scheduler, evenly=family == "flux", tokens=scheduler.config.max_image_seq_len)


def _modernise(unet: Any, family: Family) -> None:
    """Configurations from before diffusers 0.9 give Stable Diffusion's latents as 32 wide; its pipeline reads 64."""
    if family not in ("sd1", "sd2"):
        return
    size = unet.config.sample_size
    try:
        old = Version(str(unet.config.get("_diffusers_version"))) < Version("0.9.0.dev0")
    except InvalidVersion:
        return
    if old and isinstance(size, int) and size < 64:
        unet.register_to_config(sample_size=64)


@contextmanager
def _plain_errors(component: Component) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{component.folder.name} does not fit its configuration: {first_line}") from error


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    switch: Any = transformers.utils.logging
    shown = switch.is_progress_bar_enabled()
    switch.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            switch.enable_progress_bar()


def _refuse_gaps(component: Component, info: dict[str, Any]) -> None:
    """A library fills missing weights with random ones and only warns."""
    gaps = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in info.get(kind) or ())
    if gaps:
        raise ValueError(f"{component.folder.name} lacks {len(gaps)} of its weights, for example {gaps[0]}")
