"""Where the shards of a run are computed: threads, processes with a device each, or a Ray cluster.

Every runner keeps the model of a worker process for all its shards: one load a process.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from prefect import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flows.execution import Execution
from tasks.shard import cancellation
from tasks.shard.devices import begin_worker, visible_devices


@contextmanager
def open_runner(execution: Execution) -> Iterator[TaskRunner[Any]]:
    """The task runner an execution names, started. An exception in the block interrupts what runs, then waits for it.

    Raises ValueError for more processes than GPUs, or if Ray is wanted and not installed.
    """
    with ExitStack() as stack:
        stack.enter_context(temporary_settings({PREFECT_API_URL: _api()}))  # else each worker process starts a server
        runner = {"thread": _thread, "process": _process, "ray": _ray}[execution.runner](execution, stack)
        stack.enter_context(runner)
        stack.enter_context(_interrupting())
        yield runner


def _api() -> str:
    """Address of the server this run talks to, an embedded one included."""
    with get_client(sync_client=True) as client:
        return str(client.api_url).rstrip("/")


@contextmanager
def _interrupting() -> Iterator[None]:
    """Turns any way out but the ordinary one (a signal, a cancellation) into an interruption of the running shards."""
    cancellation.forget()
    try:
        yield
    except BaseException:
        cancellation.request()
        raise


def _thread(execution: Execution, stack: ExitStack) -> TaskRunner[Any]:
    """One shard on the device, and one whose photos are read or written meanwhile."""
    del execution, stack
    return ThreadPoolTaskRunner(max_workers=2)


def _process(execution: Execution, stack: ExitStack) -> TaskRunner[Any]:
    """A process for each device, pinned to it before torch looks."""
    context = multiprocessing.get_context("spawn")
    devices = context.Queue()
    for device in visible_devices(execution.workers):
        devices.put(device)
    stop = context.Event()
    stack.callback(cancellation.share, cancellation.share(stop))
    return ProcessPoolTaskRunner(
        max_workers=execution.workers,
        initializer=begin_worker,
        initargs=(devices, stop, execution.workers),
    )


def _ray(execution: Execution, stack: ExitStack) -> TaskRunner[Any]:
    """One GPU a task. ``max_calls=0`` keeps Ray from a fresh process, and so a model load, for every GPU task."""
    del execution
    try:
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options
    except ImportError:
        raise ValueError("runner is ray, which is not installed: pip install 'fixpoint-diffusion[ray]'") from None
    stack.enter_context(remote_options(num_gpus=1, num_cpus=1, max_calls=0))
    runner: TaskRunner[Any] = RayTaskRunner(address=os.environ.get("RAY_ADDRESS"))
    return runner
