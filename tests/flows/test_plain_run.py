"""What a command starts: nothing it does not need, and Prefect only where it brings something."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows import plain
from flows.execution import Execution, Incomplete
from tasks import steps
from tasks.config import RunConfig
from tasks.store.errors import StoreUnavailable
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tests.photographs import write_photos

DCP = RunConfig(dehaze_variant="dcp", shard_size=1)
REPORT_MODULES = """
import json, sys
from flows.cli.app import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
heavy = [name for name in ("torch", "prefect", "diffusers", "transformers") if name in sys.modules]
print(json.dumps(heavy))
"""


def loaded_by(*arguments: str) -> list[str]:
    """The heavy libraries that the command loads, in a process of its own."""
    line = [sys.executable, "-c", REPORT_MODULES, *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, check=True)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server is named, whatever other tests or the machine have set up."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))


def test_help_loads_nothing_heavy() -> None:
    assert loaded_by("--help") == []


def test_a_small_run_needs_no_prefect_and_a_run_with_nothing_new_no_torch(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 2)
    line = [
        "dehaze",
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "--set",
        "dehaze_variant=dcp",
        "--json",
        "--no-report",
    ]
    assert "prefect" not in loaded_by(*line)
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2
    assert loaded_by(*line) == []
    (tmp_path / "in" / "new.png").write_bytes(next((tmp_path / "in").glob("*.png")).read_bytes())
    assert "torch" in loaded_by(*line)
    assert len(list((tmp_path / "out" / "images").iterdir())) == 3


def test_who_wants_prefect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not plain.wants_prefect(Execution())
    assert plain.wants_prefect(Execution(prefect=True))
    assert plain.wants_prefect(Execution(runner="process", workers=2))
    assert plain.wants_prefect(Execution(concurrency_limit="gpu"))
    (tmp_path / "prefect").mkdir()
    profiles = 'active = "here"\n[profiles.here]\nPREFECT_API_URL = "http://example.org/api"\n[profiles.bare]\n'
    (tmp_path / "prefect" / "profiles.toml").write_text(profiles)
    assert plain.wants_prefect(Execution())
    monkeypatch.setenv("PREFECT_PROFILE", "bare")
    assert not plain.wants_prefect(Execution())
    monkeypatch.setenv("PREFECT_API_URL", "http://example.org/api")
    assert plain.wants_prefect(Execution())
    assert not plain.wants_prefect(Execution(prefect=False))
    with pytest.raises(ValueError, match="leave prefect out"):
        Execution(prefect=False, runner="ray")


def test_many_shards_are_left_to_prefect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 3)
    monkeypatch.setattr(plain, "MAX_SHARDS", 2)
    output = str(tmp_path / "out")
    where = (str(tmp_path / "in"), output, Ledger(open_store(output)), DCP)
    assert plain._run_plainly(*where, Execution(report=False)) is None
    done = plain._run_plainly(*where, Execution(report=False, prefect=False))
    assert done is not None
    assert (done["processed"], done["open_shards"]) == (3, 0)


def test_a_shard_is_tried_again_where_that_can_help(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 2)
    original, calls = steps.process, list[int]()

    def failing(output: str, config: RunConfig, plan: int, shard: int, *rest: object) -> object:
        calls.append(shard)
        if shard == 0 and calls.count(0) == 1:
            raise StoreUnavailable("the store is away")
        if shard == 1:
            raise ValueError("a wrong setting")
        return original(output, config, plan, shard, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(steps, "process", failing)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    ledger = Ledger(open_store(str(tmp_path / "out")))
    with pytest.raises(Incomplete, match=r"1 shards are open.*a wrong setting"):
        plain._run_plainly(str(tmp_path / "in"), str(tmp_path / "out"), ledger, DCP, Execution(report=False))
    assert (calls.count(0), calls.count(1)) == (2, 1)
