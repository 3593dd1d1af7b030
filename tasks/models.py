"""The models of this process: loaded once, whoever asks first."""

from __future__ import annotations

import logging
import threading

from fpcore.models.load import load_model
from fpcore.models.model import Model
from tasks.config import RunConfig
from tasks.progress import PROGRESS

log = logging.getLogger(__name__)
_models: dict[tuple[str, str | None, str, str], Model] = {}
_lock = threading.Lock()


def model_for(config: RunConfig) -> Model:
    """The model a configuration names. An explicit lock, because ``lru_cache`` loads twice under threads."""
    key = (config.pretrained_model_name_or_path, config.revision, config.torch_dtype, config.device)
    with _lock:
        if key not in _models:
            name, revision, dtype, device = key
            _models[key] = load_model(name, revision=revision, torch_dtype=dtype, device=device)
            PROGRESS.add("model_loads")
            log.info("loaded %s", name)
        return _models[key]
