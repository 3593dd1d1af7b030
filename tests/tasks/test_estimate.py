"""Sizing from a finished run."""

import math

import pytest

from tasks.estimate import Rates, rates_of, sizing


def test_hours_and_storage_follow_from_the_measured_photo() -> None:
    rates = Rates(seconds=1.5, picture_bytes=2e6, row_bytes=5e4, shard_size=64)
    one, eight = sizing(rates, 100_000, [1, 8])
    assert one["shards"] == 1563
    assert one["hours"] == pytest.approx(100_000 * 1.5 / 3600, rel=0.01)
    assert eight["hours"] == pytest.approx(one["hours"] / 8, rel=0.01)
    assert (one["pictures_gb"], one["parquet_gb"], one["minutes_a_shard"]) == (200, 5, 1.6)


def test_the_last_shard_keeps_one_device_busy_alone() -> None:
    rates = Rates(seconds=3600, picture_bytes=0, row_bytes=0, shard_size=1)
    assert [row["hours"] for row in sizing(rates, 3, [2, 3, 100])] == [2, 1, 1]
    assert all(math.isfinite(row["hours"]) for row in sizing(rates, 1, [1]))


def test_an_output_without_commits_cannot_be_measured(tmp_path) -> None:
    with pytest.raises(ValueError, match="no committed shard"):
        rates_of(str(tmp_path / "empty"))
