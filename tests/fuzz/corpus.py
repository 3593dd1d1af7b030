"""What is mutated: small whole files of every kind. All of it is generated; nothing binary is kept."""

from __future__ import annotations

import functools
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.analytics.current import update_current
from tasks.config import RunConfig
from tasks.photos.decode import Photo
from tasks.photos.encode import encode_photo
from tasks.photos.metadata import KINDS
from tasks.store.ledger import Ledger, ShardId
from tasks.store.objects import open_store
from tests.chaos.tiny_job import entries
from tests.ledgers import Recipe, add_shard
from tests.tasks.photos import zoo
from tests.tasks.photos.test_manifests import SHAPES, WRITTEN
from tests.tasks.photos.test_metadata import ELSEWHERE, FULL
from tests.tasks.store.test_store_history import commit

URLS = (
    "photos/a.jpg", "../a.jpg", "/etc/passwd", "file:///tmp/a%20b.jpg", "file://localhost/tmp/a.jpg", "s3://bucket/key?x=1#y",
    "s3://bucket/a/../b", "gs://bucket/key", "az://container/key", "memory://a/b", "https://example.org/a.jpg?sig=SECRET&sv=1",
    "http://user:SECRET@example.org/a.jpg", "http://[::ffff:127.0.0.1]:8080/a", "http://0x7f.1/", "http://2130706433/a.jpg",
    "https://exämple.org/ä/%2e%2e/a.jpg", "simplecache::s3://b/k", "HTTPS://EXAMPLE.org:443//a//b?X-Amz-Signature=SECRET",
    "images/a\u202egpj.exe", "CON/aux.jpg", "a" * 300 + ".jpg", "~root/a.jpg", "\\\\host\\share\\a.jpg", "C:\\a.jpg",
)  # fmt: skip
PAIRS = ("reweight=snow=2, sky=0.5", "num_inference_steps=10", 'mask=[0, 5, 9, 1]', "operation=edit", "strength=0.5",
         "retry_failed=truncated,all", "allow_root=[\"s3://bucket\"]", "blended_word=cat dog", "depth_folder=x")  # fmt: skip


def photos() -> list[bytes]:
    """Every kind of the zoo, and every format with all its metadata, three times: damage is least foreseen there."""
    full = [encode_photo(zoo.PICTURE, Photo(zoo.PICTURE, None, kind, metadata=FULL)).data for kind in KINDS] * 3
    return [*full, *ELSEWHERE.values(), *(case.data for case in zoo.all_cases() if case.pixels is not None)]


def manifests() -> list[bytes]:
    """As tools write them, every bad shape that is known, and Parquet."""
    texts = [text.encode() if isinstance(text, str) else text for text in WRITTEN.values()]  # type: ignore[attr-defined]
    good = b'{"path": "a.jpg", "prompt": "haze"}\n'
    shapes = [good + json.dumps({"path": "a.jpg", **shape}).encode() for shape in SHAPES.values()]
    joined = b"\n".join(shapes)
    table = pa.table({"path": ["a.jpg", "b.jpg"], "prompt": ["haze", None], "seed": [1, 2], "mask": [[0, 5], None]})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    pie = {"0": {"image_path": "a.jpg", "original_prompt": "[cat]", "editing_prompt": "[dog]", "mask": [0, 5]}}
    return [
        *texts,
        *shapes,
        joined,
        sink.getvalue(),
        json.dumps(pie).encode(),
        "path,prompt\na.jpg,x\n".encode("utf-16"),
    ]


def urls() -> list[bytes]:
    """Addresses, paths and names."""
    return [text.encode() for text in URLS]


@functools.cache
def output() -> dict[str, bytes]:
    """A small output: run.json, two plans, three commits, a checkpoint, a name given up, what is current."""
    ledger = Ledger(open_store("memory://fuzz-corpus"))
    ledger.create_run(RunConfig().identity())
    for listed in (entries(6), entries(8)):
        ledger.plan_new(listed, 4)
        for shard in ledger.open_shards():
            commit(ledger, ShardId(*shard), {listed[2]["key"]: "truncated"})
    ledger.checkpoint(always=True)
    ledger.pictures.give_up({"images/left.jpg"})
    update_current("memory://fuzz-corpus")
    return {entry.key: ledger.store.get(entry.key) for entry in ledger.store.list()}


def objects() -> list[bytes]:
    """The Parquet objects of an output, and a shard with steps, measures and pictures, each after its key."""
    found = [key.encode() + b"\n" + data for key, data in output().items() if key.endswith(".parquet")]
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(photos=4, photos_per_shard=4, inference_steps=3, size=(48, 32))
        full = add_shard(Path(folder), Path(folder) / "in", recipe, 0).read_bytes()
    return [*found, *[b"shards/000001-00000.parquet\n" + full] * len(found)]


def settings() -> list[bytes]:
    """Configurations as JSON, options as the command line takes them, and run.json."""
    configurations = [RunConfig(), RunConfig(operation="edit", prompt="a", target_prompt="b", reweight="snow=2")]
    texts = [json.dumps(one.model_dump(mode="json")) for one in configurations]
    return [*(text.encode() for text in [*texts, *PAIRS]), output()["run.json"]]


CORPUS: dict[str, Callable[[], list[bytes]]] = {
    "photo": photos,
    "manifest": manifests,
    "url": urls,
    "parquet": objects,
    "settings": settings,
}
