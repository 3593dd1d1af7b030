"""The models of this process: loaded once, whoever asks first."""

from __future__ import annotations

import logging
import threading

from fpcore.models.model import Model
from tasks.config import RunConfig
from tasks.shard.progress import PROGRESS

log = logging.getLogger(__name__)
LOADING = (
    "revision", "variant", "torch_dtype", "vae_dtype", "device", "local_files_only", "attention", "vae_slicing",
    "vae_tiling", "cpu_offload", "compile", "onnx", "timestep_spacing", "steps_offset",
)  # fmt: skip
_models: dict[tuple[object, ...], Model] = {}
_lock = threading.Lock()


def model_for(config: RunConfig) -> Model:
    """The model a configuration names. An explicit lock, because ``lru_cache`` loads twice under threads."""
    from fpcore.models.load import load_model  # here: a run that asks no diffusion model imports no diffusers

    options = {name: getattr(config, name) for name in LOADING}
    options["inpainting"] = (config.operation, config.task) == ("restore", "inpaint")
    key = (config.pretrained_model_name_or_path, *options.values())
    with _lock:
        if key not in _models:
            _models[key] = load_model(config.pretrained_model_name_or_path, **options)
            PROGRESS.add("model_loads")
            log.info("loaded %s", config.pretrained_model_name_or_path)
        return _models[key]
