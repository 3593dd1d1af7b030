"""Worker processes of one machine: each claims one device and keeps it."""

from __future__ import annotations

import os
from typing import Protocol

from tasks.shard import cancellation


class Devices(Protocol):
    """A queue that several processes take devices from."""

    def get(self) -> str:
        """One device, once."""


def visible_devices(workers: int) -> list[str]:
    """A device for each worker, as CUDA names them; on a machine without GPUs the workers share the processors.

    Raises ValueError if there are fewer GPUs than workers.
    """
    import torch

    found = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if "CUDA_VISIBLE_DEVICES" in os.environ else []
    names = [name for name in found if name] or [str(i) for i in range(torch.cuda.device_count())]
    if not torch.cuda.is_available():
        return [""] * workers
    if workers > len(names):
        raise ValueError(f"workers is {workers}, but {len(names)} GPUs are visible: use at most that many")
    return names[:workers]


def begin_worker(devices: Devices, stop: cancellation.Event, workers: int) -> None:
    """First thing in a worker process, before torch looks for devices: pin one, and hear of interruptions."""
    cancellation.share(stop)
    os.environ["CUDA_VISIBLE_DEVICES"] = devices.get()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
