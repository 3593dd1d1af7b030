"""Names and values are text: one function for each place they are shown in, so that none can be more than text there.

HTML is escaped by the templates themselves; JSON and Parquet need nothing.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from rich.markup import escape

from tasks.store.uris import show

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~$^=])")

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_SCRIPT = re.compile(r"\s*(javascript|data|vbscript):", re.IGNORECASE)


def terminal(text: object) -> str:
    """Text for a terminal by way of Rich: brackets are no markup, control characters are spelled out."""
    return escape(plain(text))


def plain(text: object) -> str:
    """Text for a line of output or of a log: control characters are spelled out."""
    return str(show(str(text)))


def csv(value: object) -> object:
    """A value of a CSV file: text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def target(url: object) -> str:
    """What a Markdown link leads to: an address that neither ends the link nor is a script."""
    shown = plain(url)
    return quote(shown, safe="/:@%+,;=&?#~!$*'.-_") if not _SCRIPT.match(shown) else "about:blank"


def markdown(text: object, limit: int = 1000) -> str:
    """Text for a line or cell of Markdown: no markup, no HTML, no links, also none that a viewer would find by itself."""
    line = " ".join(plain(text).split())
    line = line if len(line) <= limit else line[: limit - 1] + "…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _MARKDOWN.sub(r"\\\1", line)
    return line.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")
