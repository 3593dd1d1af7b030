"""What a stranger meets first agrees with the project: workflows, templates, citation, licence, CONTRIBUTING."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path: str | Path) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_the_makefile_has(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    jobs = read(path)["jobs"].values()
    runs = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    targets = {target for run in runs for target in re.findall(r"^make (\S+)", run)}
    assert targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert all("timeout-minutes" in job for job in jobs)


def test_quick_tests_run_on_every_python_that_is_promised() -> None:
    tested = read(".github/workflows/check.yml")["jobs"]["quick"]["strategy"]["matrix"]["python"]
    promised = [
        c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if c.startswith("Programming Language :: Python :: 3.")
    ]
    assert tested == promised == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == ">=3.11,<3.15"


def test_forms_ask_something() -> None:
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert len(forms) == 3
    for path in forms:
        form = read(path)
        assert {"name", "description", "body"} <= set(form)
        assert all(field["attributes"]["label"] for field in form["body"])


def test_the_citation_is_of_this_version() -> None:
    citation = read("CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_the_hooks_lint_as_make_check_does() -> None:
    (ruff,) = (repo for repo in read(".pre-commit-config.yaml")["repos"] if "ruff" in repo["repo"])
    assert f"ruff=={ruff['rev'].removeprefix('v')}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_contributing_answers_ten_questions_in_one_step_each() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## Where is …?")[1].split("\n## ")[0]
    answers = re.findall(r"^\| (.+?\?) \| (.+) \|$", section, re.MULTILINE)
    assert len(answers) == 10
    assert all((ROOT / link).is_file() for _, answer in answers for link in re.findall(r"\]\((.+?)\)", answer))


def test_every_page_of_the_guides_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages - set(re.findall(r"[\w/]+\.md", text)) == set()


def test_every_module_of_the_library_is_in_the_reference() -> None:
    named = {
        name
        for page in (ROOT / "docs" / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
    }
    rooms = ("inversion", "editing", "dehazing", "restoration", "evaluation", "models")
    files = [file for room in rooms for file in (ROOT / "fpcore" / room).glob("*.py") if file.stem != "__init__"]
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files}
    assert modules - named == set()
    assert [name for name in named if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []
