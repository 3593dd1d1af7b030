"""The benchmark of a large photograph's pixels clocks every stage of a shard as it is today."""

import sys

import pytest

from benchmarks import pixels

pytestmark = pytest.mark.model


def test_every_stage_is_clocked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["pixels", "--megapixels", "0.1", "--photos", "1", "--repeats", "1"])
    pixels.main()
    lines = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    diffusion = ("to model size", "carry over")  # which the default does without
    assert [*lines][:-3] == [name for name, *_ in pixels.STAGES if name not in diffusion]
    assert all(float(seconds) > 0 for name, seconds in lines.items() if name in ("decode", "view", "network", "in all"))
