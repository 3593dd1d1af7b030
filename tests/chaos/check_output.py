"""An independent judge of an output: complete, exclusive, once, immutable, verifiable. Shares no code with Fixpoint.

python tests/chaos/check_output.py OUTPUT [--partial]      OUTPUT is a folder or s3://bucket/prefix"""

import hashlib
import json
import os
import re
import sys
from collections import Counter

import duckdb
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq


def check(url, partial=False, seen=None, expected_keys=None):
    """Violations as sentences; ``seen`` (name: SHA-256 of what stood before) is compared and brought up to date."""
    fs, root, bad, seen = pyarrow.fs.LocalFileSystem(), os.path.abspath(url), [], {} if seen is None else seen
    if url.startswith("s3://"):
        scheme, host = os.environ.get("AWS_ENDPOINT_URL", "https://s3.amazonaws.com").split("://")
        fs, root = pyarrow.fs.S3FileSystem(endpoint_override=host, scheme=scheme, region="us-east-1"), url[5:]

    def names(folder):
        found = fs.get_file_info(pyarrow.fs.FileSelector(f"{root}/{folder}", allow_not_found=True))
        return sorted(f.base_name for f in found if f.is_file and not f.base_name.startswith(".tmp-"))

    def read(name):
        with fs.open_input_stream(f"{root}/{name}") as stream:
            data = stream.read()
        if seen.setdefault(name, hashlib.sha256(data).hexdigest()) != hashlib.sha256(data).hexdigest():
            bad.append(f"not immutable: {name} changed after it was visible")
        return data

    def rows(name):
        try:
            data = read(name)
            stored = pq.read_metadata(pa.BufferReader(data)).metadata[b"fixpoint.sha256"]
            head, _, tail = data.rpartition(stored)
            if hashlib.sha256(head + tail).hexdigest().encode() != stored:
                bad.append(f"not verifiable: {name} does not match its digest")
            return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read().to_pylist()
        except Exception as error:
            bad.append(f"not exclusive: {name} is visible but broken ({error!r:.120})")
            return []

    plans, shards = names("plans"), names("shards")
    bad += [f"not exclusive: shards/{n} is no commit" for n in shards if not re.fullmatch(r"\d{6}-\d{5}\.parquet", n)]
    if plans != [f"{i + 1:06d}.parquet" for i in range(len(plans))] or not (plans or partial):
        bad.append(f"not complete: plans are {plans}")
    if plans or not partial:
        try:
            run = json.loads(read("run.json"))
            body = json.dumps(
                {k: run[k] for k in sorted(run) if k != "sha256"}, separators=(",", ":"), ensure_ascii=False
            )
            whole = hashlib.sha256(body.encode()).hexdigest() == run["sha256"]
        except (OSError, ValueError, KeyError):
            whole = False
        if not whole:
            bad.append("not verifiable: run.json is broken or does not match its digest")
    planned = Counter((int(n[:6]), r["shard"], r["row"], r["key"]) for n in plans for r in rows(f"plans/{n}"))
    held = [
        (f"{r['plan']:06d}-{r['shard']:05d}.parquet", r) for n in names("compacted") for r in rows(f"compacted/{n}")
    ]
    places = {name for name, _ in held}
    own = [(name, row) for name in shards for row in rows(f"shards/{name}")]
    bad += [f"not immutable: {n} differs from its compacted file" for n, r in own if n in places and (n, r) not in held]
    found = held + [(name, row) for name, row in own if name not in places]
    committed = Counter((r["plan"], r["shard"], r["row"], r["key"]) for _, r in found)
    due = (
        Counter(p for p in planned if f"{p[0]:06d}-{p[1]:05d}.parquet" in places | set(shards)) if partial else planned
    )
    bad += [f"not complete: {row} has no row" for row in due - committed]
    bad += [f"not once: {row}" for row in committed - due]
    for name, row in found:
        if name != f"{row['plan']:06d}-{row['shard']:05d}.parquet":
            bad.append(f"not once: {name} holds a row of another shard")
        if (path := row["output_path"]) and fs.get_file_info(f"{root}/{path}").type == pyarrow.fs.FileType.NotFound:
            bad.append(f"not complete: {path} is missing")
        elif path and hashlib.sha256(read(path)).hexdigest() != row["output_sha256"]:
            bad.append(f"not verifiable: {path} differs from the digest in its row")
    if expected_keys is not None and Counter(key for *_, key in planned.elements()) != Counter(expected_keys):
        bad.append(f"not once: {planned.total()} photos planned, {len(expected_keys)} given")
    if found and not bad and not url.startswith("s3://"):  # what a reader without any library of ours sees
        files = [f"{root}/compacted/{n}" for n in names("compacted")] + [f"{root}/shards/{n}" for n in shards]
        once = f"SELECT DISTINCT plan, shard, row FROM read_parquet({files}, union_by_name = true)"
        if duckdb.sql(f"SELECT count(*) FROM ({once})").fetchall() != [(len(found),)]:
            bad.append("not exclusive: a plain Parquet reader sees other rows")
    return bad


if __name__ == "__main__":
    violations = check(sys.argv[1], partial="--partial" in sys.argv)
    said = "\n".join(violations) or "complete, exclusive, once, immutable, verifiable"
    print(said, file=sys.stderr if violations else sys.stdout, flush=True)
    os._exit(bool(violations))  # torn down, the threads of Arrow and DuckDB abort the process now and then
