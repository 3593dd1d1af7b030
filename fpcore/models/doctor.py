"""Does a model load, what is it, what does it cost, and what should be changed? Answers in plain words."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from fpcore.models.load import load_model
from fpcore.models.model import Condition, Model

LEAKING_SNR = 1e-3
"""Above this terminal SNR the inverted latent carries the picture's large shapes past any change of words."""
SAFE_SHARE = 0.8
"""Share of the free memory that a batch may fill."""


@dataclass(frozen=True)
class DoctorReport:
    """What ``examine`` found; fields after ``error`` are None if the model did not load.

    Args:
        model: the name as given.
        error: why it does not load; None if it does.
        digest: SHA-256 (hex) of its files.
        parameters: per component, for example {"unet": 859520964, …}.
        image_size: (height, width) in pixels it was trained at.
        terminal_snr: ᾱ_T / (1 − ᾱ_T).
        weights_bytes: all components together.
        row_bytes: further memory for each row of a UNet batch.
        row_seconds: time of the UNet for one row, within a batch of ``rows``.
        largest_batch: rows that fit the free memory; None where it is unknown.
        recommendations: what to change, a sentence or two each; empty if all is well.
    """

    model: str
    error: str | None = None
    family: str | None = None
    digest: str | None = None
    device: str | None = None
    dtype: str | None = None
    parameters: dict[str, int] | None = None
    image_size: tuple[int, int] | None = None
    prediction_type: str | None = None
    terminal_snr: float | None = None
    weights_bytes: int | None = None
    row_bytes: int | None = None
    row_seconds: float | None = None
    rows: int | None = None
    largest_batch: int | None = None
    recommendations: tuple[str, ...] = ()

    @property
    def loads(self) -> bool:
        """Whether the model can be used at all."""
        return self.error is None


def examine(model_name: str, *, rows: int = 2, **options: Any) -> DoctorReport:
    """Load a model and measure it on ``rows`` rows of random latents; ``options`` as for ``load_model``.

    A model that cannot be used is a report too, with its ``error``; only a wrong option raises (TypeError).
    """
    try:
        model = load_model(model_name, **options)
        return _measure(model, max(2, rows))
    except torch.OutOfMemoryError:
        advice = "Set torch_dtype to float16, vae_tiling and cpu_offload; if that is not enough, use a smaller model."
        return DoctorReport(model_name, "does not fit the device's memory", recommendations=(advice,))
    except ValueError as error:
        return DoctorReport(model_name, str(error))


@torch.inference_mode()
def _measure(model: Model, rows: int) -> DoctorReport:
    condition = model.embed([""])
    _predict(model, condition, 1)  # the first call is slower than those to come
    one = _peak_bytes(model, lambda: _predict(model, condition, 1))
    row_bytes = max(1, (_peak_bytes(model, lambda: _predict(model, condition, rows)) - one) // (rows - 1))
    row_seconds = _seconds(model, lambda: _predict(model, condition, rows)) / rows
    free = free_memory(model.device)
    parts = {"unet": model.unet, "vae": model.vae}
    parts |= {f"text_encoder{f'_{i + 1}' if i else ''}": encoder for i, encoder in enumerate(model.text_encoders)}
    alpha = 0.0 if model.is_flow else float(model.scheduler.alphas_cumprod[-1])
    snr = alpha / (1 - alpha)
    return DoctorReport(
        model=model.name,
        family=model.family,
        digest=model.digest,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        parameters={name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        image_size=model.image_size,
        prediction_type="flow" if model.is_flow else model.scheduler.config.prediction_type,
        terminal_snr=snr,
        weights_bytes=sum(p.numel() * p.element_size() for part in parts.values() for p in part.parameters()),
        row_bytes=row_bytes,
        row_seconds=row_seconds,
        rows=rows,
        largest_batch=None if free is None else int(SAFE_SHARE * free // row_bytes),
        recommendations=tuple(_advice(model, snr, row_seconds, row_bytes, free)),
    )


def _predict(model: Model, condition: Condition, rows: int) -> Tensor:
    height, width = model.image_size
    z = torch.randn((rows, *model.latent_shape(height, width)), generator=torch.Generator().manual_seed(0))
    t = torch.full((rows,), model.scheduler.config.num_train_timesteps // 2, device=model.device)
    return model.predict(z.to(model.device), t, condition.repeat(rows))


def _seconds(model: Model, call: Callable[[], Tensor], at_least: float = 0.2) -> float:
    """Mean time of a call, over as many calls as fill ``at_least`` seconds."""
    calls, started = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - started < at_least:
        call().sum().item()  # waits for the device
        calls += 1
    return (time.perf_counter() - started) / calls


def _peak_bytes(model: Model, call: Callable[[], Tensor]) -> int:
    """Most memory that the tensors made by a call take at once."""
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        before = torch.cuda.memory_allocated(model.device)
        call()
        return int(torch.cuda.max_memory_allocated(model.device) - before)
    live = LiveBytes()
    with live:
        call()
    return live.peak


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of all tensors made inside and still alive, and their peak. Works on any device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and not func.is_view:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage.data_ptr()
        if key in self._known:
            return
        self._known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def free_memory(device: torch.device) -> int | None:
    """Free bytes on the device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _advice(model: Model, snr: float, row_seconds: float, row_bytes: int, free: int | None) -> list[str]:
    advice = []
    if snr == 0:
        advice.append(
            "The noise schedule ends at zero signal, where a DDIM step cannot be inverted: set rescale_betas_zero_snr "
            "to false in scheduler/scheduler_config.json."
        )
    elif snr > LEAKING_SNR:
        advice.append(
            f"At the last timestep {snr:.1e} of the signal's power is left, so at guidance 1 an edit changes little: "
            "use guidance_scale 7.5 with null-text optimisation or direct inversion."
        )
    if free is not None and SAFE_SHARE * free < 2 * row_bytes:
        advice.append("Memory for two rows is lacking: set torch_dtype to float16 or cpu_offload, or free memory.")
    if model.device.type == "cpu" and row_seconds > 1:
        advice.append(
            f"On this processor 50 steps there and back take about {100 * row_seconds / 60:.0f} minutes a photo: use a "
            "GPU, or builtin:haze."
        )
    if model.dtype != torch.float32:
        advice.append(
            f"In {str(model.dtype).removeprefix('torch.')} residuals stay near {torch.finfo(model.dtype).eps:.0e}: "
            "keep the tolerance above that, or set torch_dtype to float32."
        )
    if any(p.dtype == torch.float16 for p in model.vae.parameters()):
        advice.append("A VAE in float16 can overflow to NaN on bright areas: set vae_dtype to float32.")
    return advice
