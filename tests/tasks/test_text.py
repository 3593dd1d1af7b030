"""Names are text in every place they are shown."""

from __future__ import annotations

import io

import jinja2
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from tasks.report.page import number
from tasks.text import markdown, terminal

HOSTILE = [
    "[bold red]x[/]",
    "[link=javascript:alert(1)]x[/link]", "[x](javascript:alert(1))", "![x](http://h/a.png)",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>", "a|b", "`code`", "# head", "http://evil.example/", "www.evil.example", "a@b.example", "$x$",
    "line\nbreak",
    "\u202egpj.exe", "\x1b]8;;http://evil\x07link\x1b]8;;\x07", 
    "&lt;b&gt;", "*bold* _it_", "=cmd|' /C calc'!A0", "\\[x\\](y)",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_terminal_shows_the_name_itself(name: str) -> None:
    sink = io.StringIO()
    Console(file=sink, force_terminal=True, width=400).print(terminal(name), highlight=False)
    shown = sink.getvalue().rstrip("\n")
    assert "\x1b" not in shown
    assert "\n" not in shown
    if name.isprintable():
        assert shown == name


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_shows_the_name_and_makes_nothing_of_it(name: str) -> None:
    """Rendered by markdown-it with every extension that makes links of text."""
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown(name))
    for tag in ("<a", "<img", "<script", "<code", "<h1", "<em", "<strong", "<table", "<br"):
        assert tag not in html
    assert "\n" not in markdown(name)
    assert "://" not in markdown(name)
    assert "www." not in markdown(name)


@pytest.mark.parametrize("name", HOSTILE)
def test_html_is_escaped_by_the_templates(name: str) -> None:
    environment = jinja2.Environment(autoescape=True)
    html = environment.from_string('<p title="{{ x }}">{{ x }}</p>').render(x=name)
    assert html.count("<") == 2
    assert number(1) == "1"


def test_long_names_are_cut() -> None:
    assert len(markdown("x" * 10_000, 200)) == 200
