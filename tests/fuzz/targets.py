"""What is done with a case, and what must hold. A target names how the case ended; whatever it raises is a finding."""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from flows.execution import Execution
from tasks.analytics.committed import list_shards, open_output, read_shard
from tasks.analytics.current import update_current
from tasks.analytics.flatten import SHARD_COLUMNS, flatten_images, flatten_steps
from tasks.config import RunConfig
from tasks.edit_settings import blend_pair, edit_settings, own_options, read_weights
from tasks.photos.decode import PhotoLimits, decode_photo
from tasks.photos.encode import Provenance, encode_photo
from tasks.photos.formats import PhotoError
from tasks.photos.manifests import mask_runs, read_manifest
from tasks.photos.metadata import KINDS, Policy
from tasks.store import parquet
from tasks.store.access import Access
from tasks.store.error_codes import asked_codes
from tasks.store.errors import InvalidLocation, StoreError
from tasks.store.ledger import Ledger
from tasks.store.objects import open_store
from tasks.store.record import canonical, digest_of, parse_run
from tasks.store.uris import parse, safe_key, show
from tasks.store.verify import verify
from tests.fuzz.corpus import output

LIMITS = PhotoLimits(max_pixels=4_000_000, max_bytes=2_000_000)
PROVENANCE = Provenance("fixpoint", "run", "digest")


def photo(data: bytes, rng: random.Random) -> str:
    """A file is a photo or one of the declared errors; a photo can be written, and what was written read again."""
    try:
        found = decode_photo(data, LIMITS)
    except PhotoError as error:
        return error.code
    assert found.pixels.size <= 3 * LIMITS.max_pixels
    target = rng.choice(["same", "same", *KINDS])
    try:
        written = encode_photo(
            found.pixels, found, target, policy=rng.choice(get_args(Policy)), provenance=rng.choice([None, PROVENANCE])
        )
    except PhotoError as error:
        if error.code != "too-many-pixels":
            raise
        return f"not written: {error.code}"
    again = decode_photo(written.data, replace(LIMITS, max_bytes=10**9))
    assert again.size == found.size
    return f"read, written as {target}"


def manifest(data: bytes, rng: random.Random) -> str:
    """Entries that stay in the manifest's own folder, lines with a problem, or one sentence."""
    name = "m.parquet" if data[:4] == b"PAR1" else rng.choice(["m.csv", "m.tsv", "m.jsonl", "m.json"])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        (Path(folder) / "a.jpg").write_bytes(b"no picture")
        try:
            entries = list(read_manifest(f"{folder}/{name}"))
        except (ValueError, StoreError) as error:
            return "refused" if str(error) else "refused without a sentence"
        own = Access.to(folder)
        for entry in entries:
            assert set(entry) >= {"key", "uri"}
            assert isinstance(entry["key"], str)
            assert "problem" in entry or own.covers(parse(entry["uri"])), entry
            assert not Path(safe_key(entry["key"])).is_absolute()
    return "lines with a problem" if any("problem" in entry for entry in entries) else "read"


def url(data: bytes, rng: random.Random) -> str:
    """An address is read as itself or refused; shown without its secret; a name stays below the output's root."""
    text = data.decode(errors=rng.choice(["replace", "surrogateescape"]))
    key = safe_key(text)
    assert key == safe_key(text)
    assert key
    assert not key.startswith("/")
    assert not {"..", ".", ""} & set(key.split("/"))
    assert key.encode()
    assert str(show(text)).isprintable() or not _controls(str(show(text)))
    try:
        address = parse(text)
    except InvalidLocation as error:
        str(error).encode()
        return "refused"
    assert parse(address.uri) == address
    if address.scheme in ("http", "https"):
        assert "SECRET" not in address.recorded.partition("/")[0]
        assert "?" not in str(address.shown)
    with contextlib.suppress(InvalidLocation):
        Access.to("s3://bucket/key").require(address)
    assert isinstance(address.signed, bool)
    assert address.name is not None
    str(address.parent)
    return address.scheme


def _controls(text: str) -> list[str]:
    return [letter for letter in text if ord(letter) < 32 or letter in "\x7f\u202e"]


def objects(data: bytes, rng: random.Random) -> str:
    """An object that others put into an output, its digest forged: named by ``verify``, and no reader breaks."""
    name, _, body = data.partition(b"\n")
    key = name.decode(errors="replace")
    stored = {**output(), (key if key in output() else "shards/000009-00000.parquet"): forged(body)}
    store = open_store(f"memory://fuzz-{rng.randrange(2**63)}")
    for place, content in stored.items():
        store.put_new(place, content)
    ledger = Ledger(store)
    try:
        problems = list(verify(ledger))
        with contextlib.suppress(StoreError):
            ledger.status()
        with contextlib.suppress(StoreError):
            ledger.pictures.put(2, "left.jpg", b"left", ".jpg")
        with contextlib.suppress(StoreError):
            update_current(store.location.uri)
        with contextlib.suppress(StoreError):
            for shard in ledger.open_shards():
                ledger.read_plan_shard(*shard)
        _read_as_tables_do(store.location.uri)
    finally:
        for entry in list(store.list()):
            store.delete(entry.key)
    return "named" if problems else "nothing found"


def _read_as_tables_do(url: str) -> None:
    """Aggregation reads columns of shards whose digests nobody has checked."""
    found = open_output(url)
    for shard in list_shards(found):
        with contextlib.suppress(StoreError):
            table, _ = read_shard(found, shard, SHARD_COLUMNS)
            flatten_images(table), flatten_steps(table)


def forged(data: bytes) -> bytes:
    """The object with a digest that fits its bytes, where it still can be found."""
    import hashlib

    with contextlib.suppress(StoreError):
        digest = parquet._metadata(data, "x").get(parquet.DIGEST_KEY, b"")
        head, found, tail = data.rpartition(digest) if digest else (b"", b"", b"")
        if found and len(digest) == 64:
            return head + hashlib.sha256(head + tail).hexdigest().encode() + tail
    return data


def settings(data: bytes, rng: random.Random) -> str:
    """A configuration, an option or a run.json is what it is or is refused in a sentence."""
    text = data.decode(errors="replace")
    ended = []
    with contextlib.suppress(StoreError):
        parse_run(data, "run.json")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        name, _, values = text.partition("=")
        values = {name: values}
    if isinstance(values, dict):
        with contextlib.suppress(StoreError):
            parse_run(_signed(values), "run.json")
        values = {str(name): value for name, value in values.items()}
        ended = [_built(model, values) for model in (RunConfig, Execution)]
        _read(own_options, values)
    for read in (mask_runs, blend_pair, read_weights, asked_codes):
        if len(text) < 10_000:
            _read(read, text)
    return " ".join(map(str, ended)) or "no object"


def _built(model: Any, values: dict[str, Any]) -> bool:
    try:
        made = model(**values)
    except (ValidationError, StoreError):
        return False
    if isinstance(made, RunConfig):
        assert RunConfig(**made.identity()).identity() == made.identity()
        canonical(made.identity())
        with contextlib.suppress(ValueError):
            edit_settings(made)
    else:
        made.retry_rule()
        made.access()
    return True


def _read(read: Callable[[Any], Any], given: Any) -> None:
    with contextlib.suppress(ValueError):
        read(given)


def _signed(values: dict[str, Any]) -> bytes:
    body = {name: value for name, value in values.items() if name != "sha256"}
    with contextlib.suppress(ValueError, UnicodeEncodeError):
        return canonical({**body, "sha256": digest_of(body)})
    return b""


TARGETS: dict[str, Callable[[bytes, random.Random], str]] = {
    "photo": photo,
    "manifest": manifest,
    "url": url,
    "parquet": objects,
    "settings": settings,
}
ORDER = ("photo", "manifest", "photo", "url", "photo", "parquet", "photo", "settings")
"""Whose turn it is, by the number of the case: half of all are photos."""
