"""Runs shared by several processes and machines: work pool, worker processes, Ray; lost workers are replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from prefect import get_client

from flows.execution import Execution
from flows.provision import ensure_limit
from tests.chaos.check_output import check
from tests.flows.test_deployments import commits, fixpoint, upload
from tests.photographs import write_photos
from tests.prefect_server import background, kill, run_worker, wait_until
from tests.servers import S3Server

pytestmark = pytest.mark.chaos

QUICK = [
    "--method",
    "words-by-place",
    "--steps",
    "4",
    "--batch-size",
    "1",
    "--shard-size",
    "1",
    "--no-report",
    "--json",
]


def command(source: str, output: str, *options: str, **execution: Any) -> list[str]:
    """The command line of a run."""
    pairs = [part for name, value in execution.items() for part in ("--execution", f"{name}={value}")]
    return [sys.executable, "-m", "flows.cli", "dehaze", source, output, *QUICK, *options, *pairs]


def summary(log: Path) -> dict[str, Any]:
    """What a run printed at its end."""
    lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
    assert lines, log.read_text()[-3000:]
    return dict(json.loads(lines[-1]))


def footers(output: Path) -> list[dict[str, Any]]:
    """What each commit says of who made it."""
    found = [pq.read_metadata(path).metadata for path in sorted(output.glob("shards/*.parquet"))]
    return [json.loads(metadata[b"fixpoint"]) for metadata in found]


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a worker and its flow runs, which have process groups of their own."""
    children = psutil.Process(process.pid).children(recursive=True)
    kill(process)
    for child in children:
        if child.is_running():
            child.kill()


@pytest.fixture(scope="module")
def bucket(
    seaweedfs: S3Server, prefect_api: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, list[str]]]:
    """A bucket prefix with ten photos; pools and deployments exist."""
    os.environ.update(seaweedfs.env)
    url, keys = upload(seaweedfs, tmp_path_factory.mktemp("photos"), 10)
    fixpoint("setup", "--gpus", "2")
    fixpoint("deploy", "--source", f"{url}/photos", "--output", f"{url}/nightly", "--cron", "0 2 1 1 *")
    yield url, keys
    for name in seaweedfs.env:
        del os.environ[name]


def test_two_workers_on_one_pool_share_a_run_with_a_model_load_each(
    bucket: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, keys = bucket
    with ExitStack() as stack:
        for name in ("one", "two"):
            stack.enter_context(run_worker("fixpoint-gpu", name, tmp_path))
        line = command(
            f"{url}/photos", f"{url}/shared", runner="work-pool", workers=2, concurrency_limit="fixpoint-gpu"
        )
        with background(line, dict(os.environ), tmp_path / "run.log") as run:
            assert run.wait(400) == 0, (tmp_path / "run.log").read_text()[-3000:]
    told = summary(tmp_path / "run.log")
    assert (told["workers"], told["model_loads"], told["processed"]) == (2, 2, len(keys))
    assert check(f"{url}/shared", expected_keys=keys) == []


def test_a_killed_process_is_replaced(prefect_api: str, tmp_path: Path) -> None:
    """runner=process: SIGKILL to one of two worker processes; the same run goes on with new ones."""
    keys = write_photos(tmp_path / "in", 12)
    out = tmp_path / "out"
    line = command(str(tmp_path / "in"), str(out), runner="process", workers=2)
    with background(line, dict(os.environ), tmp_path / "run.log") as run:
        wait_until(lambda: list(out.glob("shards/*.parquet")), 300, "the first commit")
        victim = int(footers(out)[0]["worker"].rpartition(":")[2])
        os.kill(victim, 9)
        assert run.wait(400) == 0, (tmp_path / "run.log").read_text()[-3000:]
    told = summary(tmp_path / "run.log")
    assert told["ok"] == len(keys)
    assert told["workers"] > 2
    assert told["model_loads"] == told["workers"]
    assert check(str(out), expected_keys=keys) == []


@pytest.mark.timeout(1800)
def test_a_killed_worker_is_replaced_and_nothing_is_lost(
    bucket: tuple[str, list[str]], seaweedfs: S3Server, tmp_path: Path
) -> None:
    """SIGKILL to a worker and its flow run, as when a machine is lost; another worker takes its share."""
    url, keys = bucket
    output = f"{url}/killed"
    line = command(f"{url}/photos", output, "--steps", "12", runner="work-pool", workers=2, shard_timeout=60)
    with ExitStack() as stack:
        first = stack.enter_context(run_worker("fixpoint-gpu", "first", tmp_path))
        stack.enter_context(run_worker("fixpoint-gpu", "second", tmp_path))
        run = stack.enter_context(background(line, dict(os.environ), tmp_path / "run.log"))
        wait_until(lambda: commits(seaweedfs, output) >= 2, 400, "two commits")
        kill_tree(first)
        seen: dict[str, str] = {}
        assert check(output, partial=True, seen=seen) == []
        stack.enter_context(run_worker("fixpoint-gpu", "third", tmp_path))
        assert run.wait(900) == 0, (tmp_path / "run.log").read_text()[-3000:]
    told = summary(tmp_path / "run.log")
    assert (told["ok"], told["open_shards"]) == (len(keys), 0)
    assert told["workers"] >= 3  # the lost one, its neighbour, and who took over
    assert told["model_loads"] == told["workers"]
    assert check(output, seen=seen, expected_keys=keys) == []


@pytest.mark.timeout(900)
def test_two_ray_nodes_run_it_with_two_loads(prefect_api: str, tmp_path: Path) -> None:
    """A real Ray cluster: two nodes with a GPU each, by name only; every task asks for one."""
    keys = write_photos(tmp_path / "in", 16)
    out = tmp_path / "out"
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        line = command(str(tmp_path / "in"), str(out), runner="ray")
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        with background(line, environment, tmp_path / "run.log") as run:
            assert run.wait(600) == 0, (tmp_path / "run.log").read_text()[-3000:]
    finally:
        cluster.shutdown()
    told = summary(tmp_path / "run.log")
    assert (told["workers"], told["model_loads"], told["ok"]) == (2, 2, len(keys))
    assert check(str(out), expected_keys=keys) == []


def test_a_limit_or_deployment_that_does_not_exist_is_refused_by_name(prefect_api: str, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 2)
    for wrong in ({"concurrency_limit": "nowhere"}, {"runner": "work-pool", "deployment": "shards/nowhere"}):
        line = command(str(tmp_path / "in"), str(tmp_path / "out"), **wrong)
        done = subprocess.run(line, capture_output=True, text=True, timeout=240)
        assert done.returncode == 2, done.stderr
        assert "nowhere" in done.stderr
        assert "fixpoint " in done.stderr


def test_a_limit_lets_no_more_shards_run_than_it_has_slots(prefect_api: str, tmp_path: Path) -> None:
    """Three threads want the one slot of a limit; no two hold it at one time."""
    from tasks import prefect_tasks, steps

    ensure_limit("one-at-a-time", 1)
    inside, most, lock = [0], [0], threading.Lock()

    def shard(*_: Any, **__: Any) -> dict[str, Any]:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        threading.Event().wait(0.3)
        with lock:
            inside[0] -= 1
        return {}

    original, steps.process_shard = steps.process_shard, shard  # type: ignore[assignment]
    try:
        arguments = ("out", None, 1, 0, None, 60, "one-at-a-time")
        threads = [threading.Thread(target=prefect_tasks.process.fn, args=arguments) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        steps.process_shard = original
    assert most == [1]
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name("one-at-a-time").active_slots == 0


def test_one_process_has_one_device() -> None:
    with pytest.raises(ValueError, match="choose process, ray or work-pool"):
        Execution(runner="thread", workers=2)
