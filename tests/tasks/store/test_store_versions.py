"""An outage is never a verdict on a photo, and a photo that was replaced is known by the version that was read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.photos.sources import list_photos
from tasks.store import versions
from tasks.store.errors import AccessDenied, NotFound, StoreUnavailable
from tasks.store.planned import PlannedPhoto
from tasks.store.versions import is_served, read_planned, root_of
from tests.servers import S3Server


def planned(source: str) -> list[PlannedPhoto]:
    return [PlannedPhoto(shard=0, row=i, **entry) for i, entry in enumerate(list_photos(source))]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in" / "day").mkdir(parents=True)
    (tmp_path / "in" / "day" / "a.jpg").write_bytes(b"one")
    (tmp_path / "in" / "b.jpg").write_bytes(b"two")
    return tmp_path / "in"


def test_a_photo_that_is_gone_alone_is_not_found(source: Path) -> None:
    photo = planned(str(source))[1]
    (source / "day" / "a.jpg").unlink()
    with pytest.raises(NotFound):
        read_planned(photo)


@pytest.mark.parametrize("outage", ["unmounted", "gone"])
def test_a_source_that_is_gone_as_a_whole_is_an_outage(source: Path, outage: str) -> None:
    photos = planned(str(source))
    source.rename(source.with_name("elsewhere"))
    if outage == "unmounted":
        source.mkdir()
    for photo in photos:
        with pytest.raises(StoreUnavailable, match="mount it"):
            read_planned(photo)
    source.rmdir() if outage == "unmounted" else None
    source.with_name("elsewhere").rename(source)
    assert [read_planned(photo)[0] for photo in photos] == [b"two", b"one"]


def test_a_token_that_expired_is_an_outage(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweedfs.env.items():
        monkeypatch.setenv(name, value)
    url = seaweedfs.fresh_url()
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    seaweedfs.client().put_object(Bucket=bucket, Key=f"{prefix}/a.jpg", Body=b"one")
    (photo,) = planned(url)
    assert read_planned(photo) == (b"one", photo.etag)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "expired")
    with pytest.raises(StoreUnavailable, match="renew the credentials"):
        read_planned(photo)


def test_the_version_that_was_read_is_told(source: Path) -> None:
    photo = planned(str(source))[0]
    assert read_planned(photo) == (b"two", photo.etag)
    (source / "b.jpg").write_bytes(b"three")
    data, etag = read_planned(photo)
    assert data == b"three"
    assert etag == planned(str(source))[0].etag != photo.etag


def test_a_photo_replaced_while_it_is_read_is_not_taken_for_the_new_version(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, read_uri = planned(str(source))[0], versions.read_uri

    def slow(uri: str, **given: bool) -> bytes:
        data = read_uri(uri, **given)
        (source / "b.jpg").write_bytes(b"six")
        os.utime(source / "b.jpg", ns=(7, 7))
        return data

    monkeypatch.setattr(versions, "read_uri", slow)
    assert read_planned(photo) == (b"two", photo.etag)


def test_the_version_read_from_a_bucket_is_told(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweedfs.env.items():
        monkeypatch.setenv(name, value)
    url = seaweedfs.fresh_url()
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    seaweedfs.client().put_object(Bucket=bucket, Key=f"{prefix}/a.jpg", Body=b"one")
    (photo,) = planned(url)
    seaweedfs.client().put_object(Bucket=bucket, Key=f"{prefix}/a.jpg", Body=b"other")
    assert read_planned(photo) == (b"other", planned(url)[0].etag)


def named(uri: str) -> PlannedPhoto:
    """As a manifest names a photo that nobody has listed."""
    return PlannedPhoto(0, 0, uri.rpartition("/")[2], uri)


def test_a_line_that_leads_nowhere_is_that_photos_fault(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"one")
    for lost in ("b.jpg", "typo/a.jpg", "typo/deep/a.jpg", "a.jpg/b.jpg"):
        with pytest.raises(NotFound):
            read_planned(named((tmp_path / lost).as_uri()))


def test_a_line_that_leads_to_an_empty_mount_point_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    with pytest.raises(StoreUnavailable, match="mount it"):
        read_planned(named((tmp_path / "mnt" / "photos" / "a.jpg").as_uri()))


def test_lines_that_lead_nowhere_in_buckets_are_those_photos_fault(
    seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweedfs.env.items():
        monkeypatch.setenv(name, value)
    for uri in (f"{seaweedfs.fresh_url()}/typo/a.jpg", "s3://there-is-no-such-bucket/a.jpg"):
        with pytest.raises(NotFound):
            read_planned(named(uri))
    monkeypatch.setenv("FIXPOINT_S3_ANONYMOUS", "ready")
    with pytest.raises(AccessDenied):  # it is known that nobody in particular asks
        read_planned(named("s3://ready/a.jpg"))
    monkeypatch.delenv("FIXPOINT_S3_ANONYMOUS")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-altogether")
    with pytest.raises(StoreUnavailable, match="renew the credentials"):
        read_planned(named("s3://ready/a.jpg"))


def test_a_root_is_the_address_without_the_key() -> None:
    assert root_of(PlannedPhoto(0, 0, "day/a.jpg", "s3://b/in/day/a.jpg")).uri == "s3://b/in"
    assert root_of(PlannedPhoto(0, 0, "other.jpg", "s3://b/in/day/a.jpg")).uri == "s3://b/in/day"
    assert root_of(PlannedPhoto(0, 0, "ein Tag/a b.jpg", "file:///in/ein%20Tag/a%20b.jpg")).uri == "file:///in"
    assert is_served(PlannedPhoto(0, 0, "a.jpg", "https://example.org/a.jpg"))
