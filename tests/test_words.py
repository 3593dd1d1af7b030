"""One word one meaning: what users and newcomers read says what the field says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FIELDS = {
    r"\bhalving\b": "OOM back-off",
    r"\bblind(ly)?\b(?= (step|state|iterate))": "speculative",
    r"\bforetells?\b|\bforetold\b": "predict",
    r"\bcompanions?\b": "sidecar",
    r"\bwish(es)?\b": "edit request",
    r"\btoken maps?\b|\bmap of tokens\b": "token alignment",
    r"\bamounts? of haze\b|\bhaze amount\b": "haze density",
    r"\bdarkest value\b": "dark percentile",
    r"\bwitness(es)?\b": "estimator",
    r"\breckon(ed|ing|s)?\b": "used",
    r"\bin doubt\b": "uncertain",
    r"\buntouched\b": "unchanged",
    r"\bfell silent\b": "missed heartbeats",
    r"\bthe pages\b": "Prefect UI",
    r"\bpass(es|ed)? over (the|a|an|files?|photos?)\b": "skip",
    r"\bpictures? at (the )?model('s)? size\b": "low-resolution result",
    r"\bshare of (the|an) edit\b": "fraction of the edit",
}
"""Words that stood here in a sense of our own, and the field's word for it."""
PROSE = sorted(
    p for p in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("fpcore/builtin/*/README.md")]
)
CODE = sorted(p for layer in ("fpcore", "tasks", "flows") for p in (ROOT / layer).rglob("*.py"))
TEMPLATES = sorted((ROOT / "tasks" / "report" / "templates").glob("*.j2"))


def found(text: str) -> list[str]:
    """Every wrong word of a text, with the right one."""
    plain = re.sub(r"```.*?```|`[^`]*`", " ", text, flags=re.DOTALL)
    return [f"{m[0]} (say: {word})" for wrong, word in FIELDS.items() for m in re.finditer(wrong, plain, re.IGNORECASE)]


def documented(tree: ast.AST) -> str:
    """Docstrings, and every other string that has a space in it: messages and help."""
    strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return "\n\n".join(text for text in strings if " " in text)


@pytest.mark.parametrize("file", [*PROSE, *TEMPLATES], ids=lambda p: str(p.relative_to(ROOT)))
def test_documents_say_what_the_field_says(file: Path) -> None:
    if file.name != "CHANGELOG.md":  # tells what was renamed
        assert not found(file.read_text())


@pytest.mark.parametrize("layer", ["fpcore", "tasks", "flows"])
def test_docstrings_help_and_messages_say_what_the_field_says(layer: str) -> None:
    wrong = {}
    for file in CODE:
        if file.relative_to(ROOT).parts[0] == layer and (words := found(documented(ast.parse(file.read_text())))):
            wrong[str(file.relative_to(ROOT))] = words
    assert not wrong


@pytest.mark.parametrize("file", PROSE, ids=lambda p: str(p.relative_to(ROOT)))
def test_lines_of_prose_fit_a_page(file: Path) -> None:
    code, long = "Generated from the code" in file.read_text(), []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        code ^= line.lstrip().startswith("```")
        if not code and not line.lstrip().startswith(("|", "#", "![", "<", "http")) and len(line) > 120:
            long.append(number)
    assert not long


@pytest.mark.parametrize(
    "term",
    [
        "DDIM inversion",
        "image dehazing",
        "classifier-free guidance",
        "atmospheric scattering model",
        "airlight",
        "transmission",
    ],
)
def test_a_search_finds_the_terms_of_the_field(term: str) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert any(term.lower() in page.read_text().lower() for page in pages)
