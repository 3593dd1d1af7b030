"""What tests of flows share."""

from pathlib import Path

import pytest

from tests.photographs import write_photos
from tests.servers import S3Server


@pytest.fixture
def bucket(seaweedfs: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix of its own with six photos under ``photos/``."""
    for name, value in seaweedfs.env.items():
        monkeypatch.setenv(name, value)
    url = seaweedfs.fresh_url()
    name, _, prefix = url.removeprefix("s3://").partition("/")
    for key in write_photos(tmp_path / "photos", 6):
        body = (tmp_path / "photos" / key).read_bytes()
        seaweedfs.client().put_object(Bucket=name, Key=f"{prefix}/photos/{key}", Body=body)
    return url
