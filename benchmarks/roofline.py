"""What the machine can do, what a network call asks of it, and how much of the time it is at work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fpcore.models.model import Condition, Model


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the best of some square matrix products: the roof. Multiply and add count as two."""
    sizes = (4096, 8192) if device.type == "cuda" else (1024, 2048)
    best = 0.0
    for n in sizes:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        seconds = shortest(lambda a=a, b=b: a @ b, device, repeats=8)  # type: ignore[misc]
        best = max(best, 2 * n**3 / seconds)
    return best


def memory_rate(device: torch.device) -> float:
    """Bytes a second of copying a large array, read and write counted."""
    a = torch.empty((2**30 if device.type == "cuda" else 2**27) // 4, device=device)
    b = torch.empty_like(a)
    return 8 * a.numel() / shortest(lambda: b.copy_(a), device, repeats=8)


def shortest(work: Callable[[], Any], device: torch.device, repeats: int = 3) -> float:
    """Seconds of the quickest of some runs, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - began)
    return min(times)


@torch.no_grad()
def operations_a_row(model: Model, latents: Tensor, condition: Condition) -> int:
    """Floating-point operations of one network row, counted by PyTorch: convolutions, products, attention."""
    with FlopCounterMode(display=False) as counter:
        model.predict(latents[:1], torch.full((1,), 500, device=latents.device), condition.rows(torch.zeros(1).long()))
    return counter.get_total_flops()


def bytes_a_call(model: Model, latents: Tensor, condition: Condition, rows: int) -> int:
    """Bytes that a call must move at the least: all weights once, inputs and outputs of every layer once each."""
    moved = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal moved
        moved += sum(x.nbytes for x in (*inputs, output) if isinstance(x, Tensor))

    leaves = [m for m in model.unet.modules() if not list(m.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    with torch.no_grad():
        model.predict(latents[:1], torch.full((1,), 500, device=latents.device), condition.rows(torch.zeros(1).long()))
    for hook in hooks:
        hook.remove()
    return rows * moved + sum(p.nbytes for p in model.unet.parameters())


@contextmanager
def device_busy(device: torch.device, every: float = 0.1) -> Iterator[Callable[[], float | None]]:
    """Yields a function that tells the share of the time so far in which the GPU ran something, by the driver's own count.

    None without CUDA. Asked every tenth of a second; the driver answers for the interval before.
    """
    shares: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(every):
            shares.append(torch.cuda.utilization(device))

    asker = threading.Thread(target=ask, daemon=True)
    if device.type == "cuda":
        asker.start()
    try:
        yield lambda: sum(shares) / len(shares) / 100 if shares else None
    finally:
        over.set()


@dataclass
class Meter:
    """Wraps a model's UNet; counts its calls and rows, and the seconds it computes.

    On CUDA the seconds lie between events on the device's own clock: the device waiting between calls counts as idle.
    """

    unet: Any
    calls: int = 0
    rows: int = 0
    _seconds: float = 0.0
    _events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unet, name)

    def __call__(self, z: Tensor, *args: Any, **kwargs: Any) -> Any:
        """One network call."""
        self.calls, self.rows = self.calls + 1, self.rows + len(z)
        if z.is_cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            output = self.unet(z, *args, **kwargs)
            end.record()
            self._events.append((begin, end))
            return output
        began = time.perf_counter()
        output = self.unet(z, *args, **kwargs)
        self._seconds += time.perf_counter() - began
        return output

    def seconds(self) -> float:
        """Time the network computed so far."""
        if self._events:
            torch.cuda.synchronize()
        return self._seconds + sum(a.elapsed_time(b) for a, b in self._events) / 1000
