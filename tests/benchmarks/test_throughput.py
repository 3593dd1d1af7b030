"""The speed benchmark runs, checks itself and reports numbers that can be."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import pipeline, throughput
from benchmarks.random_sd import random_sd
from benchmarks.roofline import Meter, bytes_a_call, operations_a_row

pytestmark = pytest.mark.model


def measured(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> list[dict]:
    saved = folder / "rows.jsonl"
    monkeypatch.setattr(sys, "argv", ["throughput", "--steps", "2", "--save", str(saved), *options])
    throughput.main()
    return [json.loads(line) for line in saved.read_text().splitlines()]


def test_a_gpus_script_runs_on_a_small_random_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = ("--model", "sd15-small", "--count", "3", "--batch-size", "2", "--files", "4")
    rows = measured(monkeypatch, tmp_path, *small, "--only", "network", "dehaze", "batching", "pipeline")
    network, (residuals, *ways, batching, whole) = rows[:4], rows[4:]
    assert all(row["relative_difference"] < 1e-3 for row in network)
    assert 0 < whole["network_share_of_wall"] < 1
    assert whole["photos"] == 4
    found = residuals["residual_mean_worst"]
    assert all(0 < mean <= worst < 1 for mean, worst in found.values())
    assert [way["times"] > 0 for way in ways] == [True] * 5
    assert ways[0]["times"] == 1
    assert batching["rows_needed"] == batching["rows_continuous"] <= batching["rows_batch_by_batch"]
    assert batching["rows_batch_by_batch"] <= batching["rows_lock_step"]


def test_what_a_call_costs_is_counted() -> None:
    model = random_sd(["haze"], device="cpu", dtype=torch.float32, small=True)
    latents, condition = torch.randn(2, 4, 8, 8), model.embed(["haze", "haze"])
    assert operations_a_row(model, latents, condition) > 2 * sum(
        p.numel() for name, p in model.unet.named_parameters() if "conv" in name
    )
    weights = sum(p.nbytes for p in model.unet.parameters())
    one, two = (bytes_a_call(model, latents, condition, rows) - weights for rows in (1, 2))
    assert two == 2 * one > 0
    meter = Meter(model.unet)
    meter(latents, torch.tensor([5, 5]), encoder_hidden_states=condition.embeddings, return_dict=False)
    assert (meter.calls, meter.rows, meter.dtype) == (1, 2, torch.float32)
    assert meter.seconds() > 0


def test_a_run_without_network_commits_every_photo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (row,) = measured(monkeypatch, tmp_path, "--count", "2", "--batch-size", "2", "--only", "pipeline")
    assert 0 < row["network_share_of_wall"] < 1
    assert row["photos_per_s_without_network"] > row["photos_per_s"]


def test_planning_is_measured_at_any_number_of_keys() -> None:
    row = pipeline._grow_keys(130, 2, 2)
    assert (row["keys"], row["shards"]) == (130, 3)
