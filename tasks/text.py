"""Names and values are text: one function for each place they are shown in, so that none can be more than text there.

HTML is escaped by the templates themselves. No CSV is written, so that nothing is left to a spreadsheet's formulas.
"""

from __future__ import annotations

import re

from rich.markup import escape

from tasks.store.uris import show

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~$^=])")


def terminal(text: object) -> str:
    """Text for a terminal by way of Rich: brackets are no markup, control characters are spelled out."""
    return escape(str(show(str(text))))


def markdown(text: object, limit: int = 1000) -> str:
    """Text for a line or cell of Markdown: no markup, no HTML, no links, also none that a viewer would find by itself."""
    line = " ".join(str(show(str(text))).split())
    line = line if len(line) <= limit else line[: limit - 1] + "…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _MARKDOWN.sub(r"\\\1", line)
    return line.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")
