"""The id of a run: what its rows are told apart by."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from tasks.config import RunOrigin


def begin_run(flow_run_id: str | None = None) -> RunOrigin:
    """A run that begins now: a time to sort by and to read, and four digits that tell twins apart."""
    return RunOrigin(run_id=f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}", flow_run_id=flow_run_id)
