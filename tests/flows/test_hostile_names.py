"""Photos with hostile names through every place that shows a name: terminal, Markdown, page, CSV, Prefect's artifacts."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import jinja2
import numpy as np
import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from flows import artifacts, demo, evaluate, hooks
from flows.cli.app import app
from fpcore.models import doctor
from tasks.evaluation import reproduce
from tasks.report.failures import FailedPhoto, failure_summary
from tasks.report.page import write_report
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tasks.text import csv, target
from tests.tasks.store.test_store_history import commit
from tests.tasks.test_text import HOSTILE

pytestmark = pytest.mark.model  # loads what the report needs
SHOWN = [name for name in HOSTILE if name.isprintable()]
TAGS = ("<a ", "<a>", "<img", "<script", "<b>", "<code", "<em", "<strong", "<br")


@dataclass
class Found:
    """What an examination of a model says."""

    name: str
    notes: list[str]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output whose photos have hostile names and failed for hostile reasons, one in four is fine."""
    folder = tmp_path_factory.mktemp("hostile") / "out"
    ledger = Ledger(open_store(str(folder)))
    ledger.create_run({"operation": "dehaze", "method": HOSTILE[0], "prompt": HOSTILE[2]})
    ledger.plan_new(({"key": name, "uri": f"file:///{i}", "size": i} for i, name in enumerate(HOSTILE)), 50)
    (shard,) = ledger.open_shards()
    failing = {name: name if i % 2 else "damaged" for i, name in enumerate(HOSTILE) if i % 4}
    commit(ledger, shard, failing, error_message=HOSTILE[4], prompt=HOSTILE[2])
    ledger.store.put_new("images/[bold red]left[/].jpg", b"left")
    return folder


def said(*arguments: object) -> str:
    """All that a command printed, its lines joined."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "5000"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "\x1b" not in result.stdout + result.stderr
    return result.stdout + result.stderr


def rendered(text: str) -> str:
    """Markdown as a viewer shows it that allows HTML and tables."""
    return str(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))


def assert_text(html: str, own: tuple[str, ...] = ()) -> None:
    """No tag but our ``own`` ones, each once."""
    assert [tag for tag in TAGS if html.count(tag) != own.count(tag)] == []
    assert "href" not in html.replace("&", "")


# the terminal


def test_commands_show_names_as_they_are(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "images/[bold red]left[/].jpg" in said("gc", output)
    (output / "plans" / "[red]x[bold].parquet").write_bytes(b"")
    assert "plans/[red]x[bold].parquet: Fixpoint writes no object" in said("verify", output)
    (output / "plans" / "[red]x[bold].parquet").unlink()
    assert "planned" in said("status", output)
    monkeypatch.setattr(doctor, "examine", lambda model: Found(HOSTILE[0], SHOWN))
    text = said("doctor", "m")
    assert [name for name in SHOWN if name not in text] == []


def test_the_demo_s_table(output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "5000")
    demo.show_results(str(output), {"haze": "0.5", "gain": "0.5"}, "Results")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert [name for i, name in enumerate(HOSTILE) if i % 4 == 0 and name in SHOWN and name not in shown] == []


# Markdown and the page


def test_summaries_and_reports(output: Path) -> None:
    assert_text(rendered(failure_summary(str(output))))
    done = write_report([str(output)])
    assert_text(rendered(done.markdown), own=("<strong", "<code"))
    page = (output / "report/index.html").read_text()
    for name in SHOWN:
        assert str(jinja2.utils.markupsafe.escape(name)) in page
    assert page.count("<script") == 1  # the page's own
    assert "<img src=x" not in page
    assert "javascript:alert" not in [part.partition(">")[0] for part in page.split("<a ")[1:]]


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_of_evaluations_and_csv(name: str) -> None:
    table = evaluate.markdown([{"run": name, "psnr": 1.0}])
    assert_text(rendered(table))
    assert len(table.splitlines()) == 3
    text = reproduce._csv({"name": np.array([name, "x"]), "value": np.array([-1.0, 2.0])}).decode()
    assert ",-1.0" in text
    assert not text.partition("\n")[2].startswith(("=", "+", "-", "@"))
    assert csv(-1.5) == -1.5


# Prefect


@pytest.mark.parametrize("name", HOSTILE)
def test_artifacts_of_a_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's page renders descriptions as Markdown, and a link artifact as ``[text](link)``."""
    made: list[dict[str, Any]] = []
    for kind in ("progress", "table", "markdown"):
        monkeypatch.setattr(artifacts, f"create_{kind}_artifact", lambda *a, **k: made.append({"first": a[0], **k}))
    monkeypatch.setattr(artifacts, "update_progress_artifact", lambda *arguments: None)
    monkeypatch.setattr(artifacts, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(artifacts, "before_and_after", lambda output, places: [(name, "data:image/jpeg;base64,")])
    board = artifacts.Board(f"/data/{name}", 1)
    board.add({"plan": 1, "shard": 0, "photos": 1, "worker": "host:1"})
    board.close()
    board.publish_failed([FailedPhoto(name, "truncated", name, name)], 1)
    board.publish("report")
    keys = [artifacts.artifact_key(f"/data/{name}", what) for what in
            ("progress", "shards", "failed", "report", "before-after", "output")]  # fmt: skip
    assert [one["key"] for one in made] == keys
    assert all(re.fullmatch(r"[a-z0-9-]+", key) for key in keys)
    for one in made:
        assert_text(rendered(one.get("description") or ""))
    pictures, places = (rendered(one["first"]) for one in made[-2:])
    assert_text(pictures.replace('<img src="data:image/jpeg;base64,"', ""))
    assert_text(places)
    artifacts.Board(f"/data/{name}", 1, "https://h/x").publish(None)
    linked = rendered(made[-1]["first"])
    assert linked.count("<a ") == linked.count('href="https://h/x/images/"') == 1
    assert [tag for tag in TAGS[1:] if tag in linked] == []


@pytest.mark.parametrize("name", HOSTILE)
def test_the_artifact_of_a_run_that_failed(name: str, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Client:
        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def create_artifact(self, artifact: Any) -> None:
            made.append(artifact)

    monkeypatch.setattr(hooks, "get_client", lambda sync_client: Client())
    run = SimpleNamespace(name=f"dehaze {name}", id=uuid4(), parameters={"output": str(output)})
    hooks.publish_failures(None, run, SimpleNamespace(name="Failed", message=f"First error: {name}"))  # type: ignore[arg-type]
    assert_text(rendered(made[0].data))
    assert_text(rendered(made[0].description))
    assert rendered(made[0].data).count("<h1>") == 1


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", " JavaScript:alert(1)", "data:text/html,x", "/a) <b>[x](y", "a\nb"]
)
def test_a_link_leads_to_a_place_and_runs_nothing(url: str) -> None:
    html = rendered(f"[x]({target(url)})")
    assert html.startswith('<p><a href="')
    assert html.count("<") == 4
    assert 'href="javascript' not in html.lower()
    assert 'href="data' not in html
