"""run.json: the configuration an output belongs to, written so that any flipped bit shows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tasks.store.errors import Corrupt, ForeignConfiguration, UnknownSchema
from tasks.store.schema import SCHEMA_VERSION


@dataclass(frozen=True)
class RunRecord:
    """What run.json says. ``created`` is whether this call wrote it."""

    configuration: dict[str, Any]
    configuration_digest: str
    versions: dict[str, str]
    created_at: str
    created: bool


def canonical(value: Any) -> bytes:
    """JSON with one spelling only: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


_KINDS = {"configuration": dict, "configuration_digest": str, "versions": dict, "created_at": str}


def render_run(configuration: dict[str, Any], versions: dict[str, str]) -> bytes:
    """The bytes of run.json. Raises ValueError or TypeError if the configuration is not plain JSON."""
    body = {
        "schema_version": SCHEMA_VERSION,
        "configuration": configuration,
        "configuration_digest": digest_of(configuration),
        "versions": versions,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return canonical({**body, "sha256": digest_of(body)})


def parse_run(data: bytes, name: str, *, created: bool = False) -> RunRecord:
    """Check and read run.json.

    Raises:
        Corrupt: if any bit differs from what was written.
        UnknownSchema: if another schema version wrote it.
    """
    try:
        body = json.loads(data)
        digest = body.pop("sha256")
        version = body["schema_version"]
        intact = canonical({**body, "sha256": digest}) == data and digest_of(body) == digest
        intact &= all(isinstance(body[name], kind) for name, kind in _KINDS.items())
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise Corrupt(f"{name} is damaged: restore it from a copy, or start with a new output folder") from error
    if not intact:
        raise Corrupt(f"{name} is damaged: restore it from a copy, or start with a new output folder")
    if version != SCHEMA_VERSION:
        raise UnknownSchema(
            f"{name} has schema version {version}, this program writes {SCHEMA_VERSION}: use the version of Fixpoint "
            "that wrote it, or another output folder"
        )
    return RunRecord(body["configuration"], body["configuration_digest"], body["versions"], body["created_at"], created)


def refuse_foreign(where: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise ForeignConfiguration, naming each field that differs, unless the two are equal."""
    if theirs == ours:
        return
    names = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    shown = "; ".join(f"{name}: there {theirs.get(name)!r}, here {ours.get(name)!r}" for name in names)
    raise ForeignConfiguration(
        f"{where} belongs to a run with another configuration ({shown}): "
        "choose another output, or repeat the command with the settings it was begun with"
    )
