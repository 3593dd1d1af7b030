"""``make demo-s3``: the demo's job against a real S3 server on this machine, bucket in, bucket out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fpcore.builtin.demo_photographs import write_hazy
from tests.servers import run_seaweedfs


def main() -> None:
    """Start SeaweedFS on loopback, upload the demo's photos, dehaze them, verify, stop the server."""
    with tempfile.TemporaryDirectory() as folder, run_seaweedfs(Path(folder) / "server") as server:
        os.environ.update(server.env)
        write_hazy(Path(folder) / "hazy", Path(folder) / "clear")
        bucket = server.make_bucket("demo")
        for photo in sorted((Path(folder) / "hazy").iterdir()):
            server.client().put_object(Bucket="demo", Key=f"photos/{photo.name}", Body=photo.read_bytes())
        for command in (
            ["dehaze", f"{bucket}/photos", f"{bucket}/out"],
            ["verify", f"{bucket}/out"],
            ["status", f"{bucket}/out"],
        ):
            print("$ fixpoint", *command, flush=True)
            subprocess.run([sys.executable, "-m", "flows.cli", *command], check=True)
        listing = server.client().list_objects_v2(Bucket="demo", Prefix="out/")
        print(json.dumps({entry["Key"]: entry["Size"] for entry in listing["Contents"]}, indent=2))


if __name__ == "__main__":
    main()
