"""The report: its numbers against DuckDB over the raw shards, and the page as a browser will find it."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.cli.app import settings_of
from tasks.config import RunConfig
from tasks.report import page as module
from tasks.report.data import Night, paired, reproduce, source_of
from tasks.report.page import ReportSummary, number, percent, write_report
from tasks.report.pictures import reasons, sample_keys
from tasks.store.ledger import RunStatus, ShardId
from tasks.store.schema import FOOTER_KEY, shard_schema
from tasks.text import markdown
from tests.ledgers import Recipe, picture, write_ledger

RECIPE = Recipe(photos=24, photos_per_shard=8, inference_steps=9, inter=True, size=(120, 80))


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    write_ledger(root / "night", root / "photos", RECIPE)
    return root / "night"


@pytest.fixture(scope="module")
def report(night: Path) -> ReportSummary:
    return write_report([str(night)])


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at something else: the charts take most of a report's time."""
    monkeypatch.setattr(module, "charts_of", lambda *_: [])
    monkeypatch.setattr(module, "comparison", lambda *_: [])


class Page(HTMLParser):
    """Elements of a page with their attributes, and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._silent = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self._silent += tag in {"style", "script"}

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in {"style", "script"}

    def handle_data(self, data: str) -> None:
        self.text += "" if self._silent else data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.elements if name == tag and wanted.items() <= found.items()]


def page_of(root: Path) -> Page:
    return Page((root / "report/index.html").read_text())


@pytest.mark.long
def test_numbers_equal_duckdb_over_the_raw_shards(night: Path, report: ReportSummary) -> None:
    shards = f"read_parquet('{night}/shards/*.parquet')"

    def ask(query: str) -> list[tuple]:
        return duckdb.sql(query.format(shards=shards)).fetchall()

    said = json.loads((night / "report/report.json").read_text())["runs"][0]
    assert ask(
        "SELECT count(*), count(*) FILTER (status = 'ok'), count(*) FILTER (status = 'failed') FROM {shards}"
    ) == [(said["photos"], said["ok"], said["failed"])]
    ok = "{shards} WHERE status = 'ok'"
    assert dict(ask(f"SELECT verdict, count(*) FROM {ok} GROUP BY 1")) == said["verdicts"]
    assert dict(ask(f"SELECT inversion_status, count(*) FROM {ok} GROUP BY 1")) == said["inversion"]
    assert dict(ask("SELECT error_code, count(*) FROM {shards} WHERE status = 'failed' GROUP BY 1")) == said["failures"]
    assert ask(f"SELECT avg(nfe), avg(nfe_inversion) FROM {ok}")[0] == pytest.approx(
        (said["nfe"], said["nfe_inversion"])
    )
    psnr = f"SELECT avg(metrics['psnr_input']), avg(metrics['psnr_output']) FROM {ok}"
    assert ask(psnr)[0] == pytest.approx((said["psnr_input"], said["psnr_output"]))
    better = f"SELECT count(*) FROM {ok} AND metrics['psnr_output'] > metrics['psnr_input']"
    assert ask(better)[0][0] == said["psnr_better"]
    invert, write = ask(f"SELECT avg(timings.invert), avg(timings.write) FROM {ok}")[0]
    assert (said["seconds"]["invert"], said["seconds"]["write"]) == pytest.approx((invert, write))
    flagged = ask(
        "SELECT count(*) FROM {shards} WHERE status <> 'ok' OR verdict = 'collapsed' OR inversion_status <> 'converged' "
        "OR metrics['psnr_output'] < metrics['psnr_input']"
    )
    assert flagged[0][0] == said["flagged"] == report.flagged
    assert said["photos_per_second"] == pytest.approx(RECIPE.photos / (3 * 40))
    assert (report.photos, report.ok, report.failed) == (said["photos"], said["ok"], said["failed"])


def test_page_and_markdown_show_the_same_numbers(night: Path, report: ReportSummary) -> None:
    said = json.loads((night / "report/report.json").read_text())["runs"][0]
    text = " ".join(page_of(night).text.split())
    markdown = (night / "report/report.md").read_text()
    assert report.markdown == markdown
    assert f"{said['ok']} of {said['photos']} photos are done; {said['failed']} failed." in text
    assert f"{said['nfe']:.3g}evaluations of the model a photo" in text
    assert f"{said['psnr_input']:.1f} → {said['psnr_output']:.1f}" in text
    assert f"| photos | {said['photos']} |" in markdown
    assert f"{said['psnr_input']:.2f} → {said['psnr_output']:.2f} dB" in markdown
    for name, count in said["verdicts"].items():
        assert f"{name} {count} (" in text
        assert f"| verdict: {name} | {count} " in markdown


def test_the_page_stands_alone(night: Path, report: ReportSummary) -> None:
    """Nothing is loaded: no link, no foreign script, no address but the pictures inside and the ids of the charts."""
    html = (night / "report/index.html").read_text()
    page = page_of(night)
    assert not page.all("link")
    assert not [script for script in page.all("script") if "src" in script]
    addresses = [
        value for _, found in page.elements for name, value in found.items() if name in {"src", "href", "xlink:href"}
    ]
    assert all(re.match(r"data:image/jpeg;base64,|#", value or "") for value in addresses)
    assert "url(http" not in html
    assert "@import" not in html
    assert report.html_bytes == len(html.encode()) < 5_000_000
    ids = [found["id"] for _, found in page.elements if "id" in found]
    targets = {value[1:] for value in addresses if value and value.startswith("#")} | set(
        re.findall(r"url\(#([^)]+)\)", html)
    )
    assert targets <= set(ids)


@pytest.mark.usefixtures("report")
def test_pictures_are_the_photos(night: Path) -> None:
    """Before and after of the first photo, decoded from the page, against the files."""
    page = page_of(night)
    for side, root in (("before", night.parent / "photos"), ("after", night / "images")):
        found = next(image for image in page.all("img") if (image["alt"] or "").startswith(f"{side}: "))
        key = (found["alt"] or "").removeprefix(f"{side}: ")
        shown = Image.open(io.BytesIO(base64.b64decode((found["src"] or "").partition(",")[2])))
        truth = Image.open(root / key).convert("RGB")
        assert shown.size == truth.size == RECIPE.size
        assert np.abs(np.asarray(shown, float) - np.asarray(truth, float)).mean() < 4


@pytest.mark.usefixtures("report")
def test_sliders_work_by_keyboard_and_are_named(night: Path) -> None:
    page = page_of(night)
    sliders = page.all("input", type="range")
    assert len(sliders) == len(page.all("img", **{"class": "after"})) > 10
    assert all((slider["min"], slider["max"], slider["value"]) == ("0", "100", "50") for slider in sliders)
    assert all("Before and after of" in (slider["aria-label"] or "") for slider in sliders)
    assert all(image.get("alt") for image in page.all("img"))
    assert page.all("meta", name="viewport")
    assert page.all("html")[0]["lang"] == "en"


@pytest.mark.usefixtures("report")
def test_charts_follow_the_colour_scheme_and_say_what_they_show(night: Path) -> None:
    html = (night / "report/index.html").read_text()
    charts = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(charts) == 8
    for chart in charts:
        assert 'role="img" aria-label="' in chart
        assert "var(--ink)" in chart
        assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r'(id|href|clip-path)="[^"]*"', "", chart)), "a fixed colour"
    assert "prefers-color-scheme: dark" in html
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", html))
    assert used - {"--cut"} <= set(re.findall(r"(--[a-z0-9-]+):", html))
    for words in (
        "RMS loss, median",
        "iteration",
        "inter-path",
        "NFE, inversion and regeneration",
        "seconds a photo, mean",
    ):
        assert words in html


@pytest.mark.usefixtures("report")
def test_the_paths_shown_are_those_of_the_ledger(night: Path) -> None:
    entries = duckdb.sql(f"SELECT unnest(paths) FROM read_parquet('{night}/shards/000001-00000.parquet')").fetchall()
    ends = max(entry["distance"] for (entry,) in entries if entry["iteration"] == 8)
    text = " ".join(page_of(night).text.split())
    assert "5 paths of day 0/photo & 000.jpg, 8 plain iterations each" in text
    assert f"Greatest distance to it: 1 at the start, {ends:.1e} at the end." in text


def test_reasons_name_every_kind_of_flag() -> None:
    ordinary = {
        "status": "ok", "error_code": None, "error_message": None, "verdict": "cleared", "strength": 1.0,
        "inversion_status": "converged", "psnr_input": 15.0, "psnr_output": 20.0,
    }  # fmt: skip
    assert reasons(ordinary) == ()
    assert reasons(ordinary | {"verdict": None, "inversion_status": None, "psnr_input": None}) == ()
    assert reasons(ordinary | {"inversion_status": "completed"}) == ()
    assert (
        "Copy it" in reasons(ordinary | {"status": "failed", "error_code": "x", "error_message": "Copy it again."})[0]
    )
    assert "50% of the edit" in reasons(ordinary | {"verdict": "gently", "strength": 0.5})[0]
    assert "structure" in reasons(ordinary | {"verdict": "collapsed"})[0]
    assert "as it was" in reasons(ordinary | {"verdict": "unchanged"})[0]
    assert "odd" in reasons(ordinary | {"verdict": "odd"})[0]
    assert "max-iterations" in reasons(ordinary | {"inversion_status": "max-iterations"})[0]
    assert "15.0 → 12.0 dB" in reasons(ordinary | {"psnr_output": 12.0})[0]


def test_flagged_photos_are_listed_with_their_reasons(night: Path, report: ReportSummary) -> None:
    text = page_of(night).text
    for row in duckdb.sql(
        f"SELECT key, error_message FROM read_parquet('{night}/shards/*.parquet') WHERE status = 'failed'"
    ).fetchall():
        assert row[0] in text
        assert row[1] in text
        assert markdown(row[1]) in report.markdown
    assert "Collapsed: the result lost the structure of the photo." in text


@pytest.mark.usefixtures("no_charts")
def test_hostile_words_stay_words(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'|`\n</style><img src=x onerror=alert(1)>"
    rows = [
        {"plan": 1, "shard": 0, "row": 0, "key": evil, "status": "failed", "error_code": evil, "error_message": evil},
        {"plan": 1, "shard": 0, "row": 1, "key": evil + "2", "status": "ok", "verdict": evil, "inversion_status": evil},
    ]
    (tmp_path / "night/shards").mkdir(parents=True)
    (tmp_path / "night/run.json").write_text(json.dumps({"configuration": {"prompt": evil, "source": evil}}))
    pq.write_table(pa.Table.from_pylist(rows, schema=shard_schema()), tmp_path / "night/shards/000001-00000.parquet")
    done = write_report([str(tmp_path / "night")])
    page = page_of(tmp_path / "night")
    assert len(page.all("script")) == 1
    assert len(page.all("style")) == 1
    assert not [found for _, found in page.elements if "onerror" in found]
    assert evil.split("\n", maxsplit=1)[0] in page.text
    assert all(line.count("|") - line.count("\\|") in {0, 3} for line in done.markdown.splitlines() if line[:1] == "|")


@pytest.mark.long
def test_runs_are_put_side_by_side(night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "charts_of", lambda *_: [])
    fast = Recipe(**{**vars(RECIPE), "speed": 2.0, "method": "certified, extrapolated"})
    write_ledger(tmp_path / "fast", tmp_path / "photos", fast)
    done = write_report([str(night), str(tmp_path / "fast")], str(tmp_path / "both"), max_pictures=8)
    page = page_of(tmp_path / "both")
    said = json.loads((tmp_path / "both/report/report.json").read_text())["runs"]
    assert [run["label"] for run in said] == ["night", "fast"]
    assert said[1]["nfe"] < said[0]["nfe"]
    assert done.photos == 2 * RECIPE.photos
    assert "2 runs side by side" in page.text
    header = page.text[: page.text.index("The same photos")]
    for run in said:
        assert run["method"] in header
        assert number(run["nfe"]) in header
    same = [image["alt"] or "" for image in page.all("img") if (image["alt"] or "").startswith("after: ")]
    pairs = [[name for name in same if name.endswith(f", {label}")] for label in ("night", "fast")]
    assert [name.rpartition(",")[0] for name in pairs[0]] == [name.rpartition(",")[0] for name in pairs[1]]
    assert len(pairs[0]) == 4
    assert [figure["aria-label"] for figure in page.all("svg")] == [
        "Final residual by step, one line a run.", "Evaluations a photo, one box a run."
    ]  # fmt: skip


@pytest.mark.usefixtures("no_charts")
def test_the_report_of_a_run_is_on_its_own_photos_and_reads_no_others(night: Path, tmp_path: Path) -> None:
    for name in ("run.json", "images", "shards/000001-00002.parquet"):  # of the other shards there is nothing to read
        place = tmp_path / "night" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (night / name).is_dir() else shutil.copy)(night / name, place)
    status = RunStatus(plans=2, planned=24, committed=24, photos=24, ok=21, failed=3, shards=3, open_shards=0)
    done = write_report([str(tmp_path / "night")], night=Night((ShardId(1, 2),), status))
    text = " ".join(page_of(tmp_path / "night").text.split())
    assert (done.photos, done.ok, done.failed) == (8, 7, 1)
    for said in (text, done.markdown):
        assert "7 of 8 photos of this run" in said
        assert "In all there are 24 photos: 21 done, 3 failed." in said
    assert json.loads((tmp_path / "night/report/report.json").read_text())["in_all"] == vars(status)


@pytest.mark.usefixtures("no_charts")
def test_a_photo_counts_as_its_newest_row_says(tmp_path: Path) -> None:
    (tmp_path / "out/shards").mkdir(parents=True)
    for plan, rows in {1: ["ok", "failed", "failed"], 2: [None, "ok"], 3: ["failed"]}.items():
        table = [
            {"plan": plan, "shard": 0, "row": n, "key": f"{n}.jpg", "status": status, "run_id": f"night {plan}",
             "processed_at": datetime(2026, 11, plan, tzinfo=UTC)}
            for n, status in enumerate(rows) if status
        ]  # fmt: skip
        path = tmp_path / f"out/shards/00000{plan}-00000.parquet"
        pq.write_table(pa.Table.from_pylist(table, schema=shard_schema()), path)
    done = write_report([str(tmp_path / "out")])
    assert (done.photos, done.ok, done.failed) == (3, 1, 2)
    assert "| 2026-11-01 00:00:00 UTC | night 1 | 3 | 1 | 2 |" in done.markdown


def test_dehazing_by_density_speaks_of_no_inversion(tmp_path: Path) -> None:
    (tmp_path / "out/shards").mkdir(parents=True)
    (tmp_path / "out/run.json").write_text(
        json.dumps({"configuration": {"operation": "dehaze", "method": "certified"}})
    )
    rows = [
        {"plan": 1, "shard": 0, "row": n, "key": f"{n}.jpg", "status": "ok", "verdict": verdict, "nfe": 3,
         "nfe_inversion": 0, "inversion_status": "completed"}
        for n, verdict in enumerate(["cleared", "gently", "unchanged"])
    ]  # fmt: skip
    footer = {FOOTER_KEY: json.dumps({"num_inference_steps": 10, "method": "certified"}).encode()}
    table = pa.Table.from_pylist(rows, schema=shard_schema()).replace_schema_metadata(footer)
    pq.write_table(table, tmp_path / "out/shards/000001-00000.parquet")
    done = write_report([str(tmp_path / "out")])
    text = " ".join(page_of(tmp_path / "out").text.split())
    assert done.flagged == 0
    for said in (text, done.markdown):
        assert "haze density" in said
        assert "evaluations of the haze density network" in said
        assert not re.search(r"certified|10 steps|UNet|deserve|invert", said.partition("To run it again")[0])


@pytest.mark.long
@pytest.mark.usefixtures("no_charts")
def test_equal_folder_names_are_told_apart(night: Path, tmp_path: Path) -> None:
    shutil.copytree(night, tmp_path / "other/night")
    write_report([str(night), str(tmp_path / "other/night")], str(tmp_path), max_pictures=2)
    labels = [run["label"] for run in json.loads((tmp_path / "report/report.json").read_text())["runs"]]
    assert len(set(labels)) == 2
    assert all(re.fullmatch(r"night-[0-9a-f]{8}", label) for label in labels)


@pytest.mark.long
@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize("lost", ["source", "output", "both"])
def test_lost_pictures_are_replaced_or_named(tmp_path: Path, lost: str) -> None:
    recipe = Recipe(photos=4, inference_steps=3, failures=False, size=(60, 40))
    write_ledger(tmp_path / "night", tmp_path / "photos", recipe)
    if lost != "output":
        shutil.rmtree(tmp_path / "photos")
    if lost != "source":
        shutil.rmtree(tmp_path / "night/images")
    write_report([str(tmp_path / "night")])
    page = page_of(tmp_path / "night")
    results = [image for image in page.all("img") if (image["alt"] or "").startswith(("result: ", "after: "))]
    assert len(results) == 4
    assert ("The source could not be read" in page.text) == (lost != "output")
    size = Image.open(io.BytesIO(base64.b64decode((results[0]["src"] or "").partition(",")[2]))).size
    assert size == ((32, 32) if lost == "both" else (60, 40))


@pytest.mark.long
@pytest.mark.usefixtures("no_charts")
def test_heavy_pictures_keep_the_page_small(tmp_path: Path) -> None:
    recipe = Recipe(photos=24, inference_steps=2, failures=False, size=(60, 40))
    write_ledger(tmp_path / "night", tmp_path / "photos", recipe)
    noise = picture(np.random.default_rng(0).uniform(size=(500, 760, 3)))
    for path in [*(tmp_path / "photos").rglob("*.jpg"), *(tmp_path / "night/images").rglob("*.jpg")]:
        noise.save(path, quality=90)
    done = write_report([str(tmp_path / "night")])
    assert len(page_of(tmp_path / "night").all("input", type="range")) >= 24
    assert done.html_bytes < 5_000_000


@pytest.mark.parametrize(("photos", "wanted"), [(1, 5), (5, 5), (7, 3), (100, 24), (3, 0)])
def test_samples_are_spread_evenly(photos: int, wanted: int) -> None:
    keys = [f"{number:03d}" for number in range(photos)]
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE images AS SELECT unnest(?) AS key, 'ok' AS status, 'a' AS run", [keys])
        chosen = [int(key) for key in sample_keys(connection, ["a"], wanted)]
    assert len(chosen) == min(photos, wanted)
    gaps = {after - before for before, after in pairwise(chosen)}
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


@pytest.mark.usefixtures("no_charts")
def test_max_pictures_and_destination(night: Path, tmp_path: Path) -> None:
    done = write_report([str(night)], str(tmp_path / "elsewhere"), max_pictures=3)
    assert done.html == (tmp_path / "elsewhere/report/index.html").as_uri()
    text = page_of(tmp_path / "elsewhere").text
    assert re.search(r"3 of \d+ photos, spread evenly", text)


def test_a_bare_ledger_still_gives_a_report(tmp_path: Path) -> None:
    (tmp_path / "bare/shards").mkdir(parents=True)
    rows = pa.table({"plan": [1], "shard": [0], "row": [0], "key": ["a.jpg"], "status": ["ok"]})
    pq.write_table(rows, tmp_path / "bare/shards/000001-00000.parquet")
    done = write_report([str(tmp_path / "bare")])
    assert (done.photos, done.ok, done.flagged) == (1, 1, 0)
    assert "The one photo is done." in " ".join(page_of(tmp_path / "bare").text.split())


@pytest.mark.usefixtures("no_charts")
def test_a_run_in_which_all_failed(tmp_path: Path) -> None:
    (tmp_path / "bad/shards").mkdir(parents=True)
    rows = [{"plan": 1, "shard": 0, "row": row, "key": f"{row}.jpg", "status": "failed", "error_code": "truncated",
             "error_message": "The file ends early: copy it again."} for row in range(60)]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=shard_schema()), tmp_path / "bad/shards/000001-00000.parquet")
    done = write_report([str(tmp_path / "bad")])
    assert (done.ok, done.failed) == (0, 60)
    text = " ".join(page_of(tmp_path / "bad").text.split())
    assert "0 of 60 photos are done; 60 failed." in text
    assert "24 are shown" in text


def test_nothing_to_report_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No output given"):
        write_report([])
    with pytest.raises(ValueError, match="no committed shards"):
        write_report([str(tmp_path)])


def test_the_command_gives_the_same_configuration_back(night: Path) -> None:
    """Parsed as the command line parses it, the command of the page yields the configuration of run.json."""
    said = json.loads((night / "report/report.json").read_text())["runs"][0]
    words = shlex.split(said["command"])
    assert words[:4] == ["fixpoint", "dehaze", str(night.parent / "photos"), str(night)]
    settings = settings_of([word for word in words[4:] if word != "--set"])
    written = json.loads((night / "run.json").read_text())["configuration"]
    assert RunConfig(operation="dehaze", **settings).identity() == RunConfig(**written).identity()


@pytest.mark.parametrize("prompt", ["it's $HOME; rm", "5", "true", "", "a=b", '"quoted"', "ü\u202e", "null"])
def test_any_prompt_survives_the_shell(prompt: str) -> None:
    words = shlex.split(reproduce({"operation": "edit", "prompt": prompt, "seed": 0}, "my photos", "s3://b/out"))
    assert words[:5] == ["fixpoint", "edit", "my photos", "s3://b/out", "--set"]
    assert settings_of(words[5:]) == {"prompt": prompt}


def test_the_source_is_what_the_photos_have_in_common() -> None:
    assert source_of([("file:///a%20b/c/d%25.jpg", "c/d%.jpg"), ("file:///a%20b/e.jpg", "e.jpg")]) == "/a b"
    assert source_of([("s3://b/p/x%20y.jpg", "x%20y.jpg")]) == "s3://b/p"
    assert source_of([("s3://b/p/x.jpg", "x.jpg"), ("s3://c/p/x.jpg", "x.jpg")]) == "SOURCE"
    assert source_of([("parquet+s3://b/t.parquet#image/3", "x.jpg")]) == "s3://b/t.parquet"
    assert source_of([(None, "x.jpg")]) == "SOURCE"


@pytest.mark.long
def test_methods_that_judge_nothing_are_not_called_unconverged(tmp_path: Path) -> None:
    (tmp_path / "ddim/shards").mkdir(parents=True)
    rows = [
        {"plan": 1, "shard": 0, "row": row, "key": f"{row}.jpg", "status": "ok", "inversion_status": status}
        for row, status in enumerate(["completed", "completed", "completed", "nonfinite"])
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=shard_schema()), tmp_path / "ddim/shards/000001-00000.parquet")
    done = write_report([str(tmp_path / "ddim")])
    assert done.flagged == 1
    text = " ".join(page_of(tmp_path / "ddim").text.split())
    assert "0 %inversions converged" in text
    rows[3]["inversion_status"] = "completed"
    pq.write_table(pa.Table.from_pylist(rows, schema=shard_schema()), tmp_path / "ddim/shards/000001-00000.parquet")
    assert write_report([str(tmp_path / "ddim")]).flagged == 0
    assert "inversions converged" not in page_of(tmp_path / "ddim").text


def test_measures_before_and_after_share_a_row() -> None:
    measures = {
        "haze_after": (3, 1.0),
        "haze_before": (3, 2.0),
        "psnr_input": (2, 9.0),
        "psnr_output": (2, 8.0),
        "x": (1, 0.5),
    }
    assert paired(measures) == [("haze", 3, 2.0, 1.0), ("psnr", 2, 9.0, 8.0), ("x", 1, 0.5, None)]
    assert paired({"haze_after": (3, 1.0)}) == [("haze_after", 3, 1.0, None)]


def test_numbers_are_written_for_people() -> None:
    assert [number(value) for value in (None, 3, 3.0, 12.345, 0.001234, 1234567, 4567.8)] == [
        "–", "3", "3", "12.3", "0.00123", "1\u202f234\u202f567", "4\u202f568"
    ]  # fmt: skip
    assert percent(1, 3) == "33.3\u202f%"
    assert percent(1, 0) == "–"
    assert markdown("a|b\nc`<d") == "a\\|b\\\\nc\\`&lt;d"
