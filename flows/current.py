"""What is current in an output, kept by runs that are asked to."""

from __future__ import annotations

from flows.execution import Execution
from tasks.photos.sources import list_photos


def keep_current(source: str | None, output: str, execution: Execution) -> None:
    """Bring ``current/`` up to date, as ``execution.current`` says; without a source nothing is found to be gone."""
    if execution.current == "none":
        return
    from tasks.analytics.current import update_current  # here: most runs do without DuckDB

    photos = None if source is None else list_photos(source, output=output, access=execution.access())
    listed = None if photos is None else (photo["key"] for photo in photos)
    update_current(output, listed, pictures=execution.current == "pictures")
