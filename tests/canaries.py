"""A secret that must not come out, a site that answers with what it was asked, and where a secret is looked for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

CANARY = "CANARY0123456789abcdef"
DEBUG = {"PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG"}
SAS = f"sv=2024-11-04&se=2027-01-01T00%3A00%3A00Z&sr=b&sp=r&sig={CANARY}%3D"


@contextmanager
def server(photo: bytes) -> Iterator[str]:
    """A site that has one photo, refuses others with the whole address in its answer, or sends them on."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = next((code for code in (403, 404, 302) if str(code) in self.path.partition("?")[0]), 200)
            body = photo if status == 200 else f"<Error>{self.path}, {dict(self.headers)}</Error>".encode()
            self.send_response(status, f"no {self.path}" if status != 200 else None)
            if status == 302:
                self.send_header("Location", f"http://169.254.169.254/latest?{SAS}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Be quiet."""

    site = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=site.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{site.server_port}"
    finally:
        site.shutdown()
        site.server_close()


def fixpoint(*arguments: str, **variables: str) -> tuple[int, str]:
    """Run the command in a process of its own: exit code, and everything it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "400", **variables}
    line = [sys.executable, "-m", "flows.cli", *arguments]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def leaks(folder: Path) -> list[str]:
    """Files below a folder that hold the canary, as text or in a column."""
    import pyarrow.parquet as pq

    found = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        rows = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else []
        if CANARY.encode() in path.read_bytes() or CANARY in repr(rows):
            found.append(str(path.relative_to(folder)))
    return found
