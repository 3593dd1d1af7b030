"""Where a report lies under an output, and where a browser finds it; imported where nothing heavy may be."""

from __future__ import annotations

import os
from urllib.parse import quote

from tasks.store.uris import parse

REPORT = "report/index.html"


def browser_address(output: str, key: str, browse: str | None = None) -> str | None:
    """The address under which a browser opens an object of an output, or a folder if ``key`` ends with a slash.

    None where there is none: in a bucket of some other server, or in a folder, for which ``browse``, the output's address
    in the web, is not given. (A browser opens no file from a page of the web.)
    """
    if browse is not None:
        return f"{browse.rstrip('/')}/{quote(key)}"
    place = parse(output) / key
    path, folder = quote(place.path), key.endswith("/")
    if place.scheme == "s3" and not {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"} & set(os.environ):
        kind = "buckets" if folder else "object"
        return f"https://s3.console.aws.amazon.com/s3/{kind}/{place.bucket}?prefix={path}"
    if place.scheme == "gs":
        host = "console.cloud.google.com/storage/browser" if folder else "storage.cloud.google.com"
        return f"https://{host}/{place.bucket}/{path}"
    return None
