"""Likely colours: luma is kept to rounding, the network is small, training learns what is there to learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fpcore.builtin.demo_photographs import clear_photographs
from fpcore.builtin.photographs import KEPT_OUT, is_kept_out
from fpcore.evaluation.metrics import psnr
from fpcore.restoration.chroma import ChromaNet, likely_colours, with_chroma
from fpcore.restoration.degradation import Grey, luma
from fpcore.restoration.train_chroma import CROP, differences, draw, train


def photographs() -> list[Tensor]:
    return [torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255 for _, pixels in clear_photographs()]


@pytest.mark.parametrize("size", [(64, 64), (37, 90), (200, 130), (8, 300)])
def test_a_photograph_of_any_size_keeps_its_luma(size: tuple[int, int]) -> None:
    grey = torch.rand((2, 1, *size), generator=torch.Generator().manual_seed(0))
    coloured = likely_colours(grey)
    assert coloured.shape == (2, 3, *size)
    assert float((luma(coloured) - grey).abs().max()) < 1e-5


def test_colour_differences_say_all_of_a_picture_but_its_luma() -> None:
    picture = torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(with_chroma(luma(picture), differences(picture)), picture)


def test_likely_colours_are_nearer_to_the_truth_than_grey() -> None:
    """On photographs of scikit-image and scikit-learn, which nothing was trained on."""
    gains = []
    for truth in photographs():
        known = Grey.of(truth)
        coloured = Grey.of(truth, likely_colours(luma(truth))).start()
        gains.append(float(psnr(coloured, truth)[0] - psnr(known.grey(), truth)[0]))
    assert np.mean(gains) > 0.3, gains


def test_the_network_is_small() -> None:
    assert sum(p.numel() for p in ChromaNet().parameters()) < 2e6


def test_crops_know_how_high_in_the_photograph_they_are() -> None:
    photo = (torch.arange(150).view(1, 150, 1).expand(3, 150, 200) * 1.6).byte()
    pictures, heights = draw([photo], 4, torch.Generator().manual_seed(0))
    assert pictures.shape == (4, 3, CROP, CROP)
    assert heights.shape == (4, CROP)
    for picture, height in zip(pictures, heights, strict=True):
        there = np.corrcoef(picture[0].mean(1), height)[0, 1]
        assert there > 0.99
        assert 0 <= height.min() < height.max() <= 1


def test_some_photographs_are_never_trained_on() -> None:
    names = [Path(f"photo-{n}.jpg") for n in range(2000)]
    kept = [name for name in names if is_kept_out(name)]
    assert len(kept) == pytest.approx(2000 / KEPT_OUT, rel=0.3)


@pytest.mark.long
def test_training_learns_that_the_bright_is_red_and_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    bright = (torch.rand((1, 1, 12, 16), generator=generator) > 0.5).float()
    photo = torch.where(
        bright > 0, torch.tensor([230, 120, 90]).view(1, 3, 1, 1), torch.tensor([30, 60, 110]).view(1, 3, 1, 1)
    )
    wide = photo[0].repeat_interleave(12, -1).repeat_interleave(12, -2).byte()
    train([wide], tmp_path, 0.05, batch=4, rate=2e-3, seed=0)
    first = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["iteration"]
    net = train([wide], tmp_path, 0.3, batch=4, rate=2e-3, seed=0).eval()
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["iteration"] > first > 0
    truth = wide[None].float() / 255
    coloured, grey = likely_colours(luma(truth), [net]), Grey.of(truth).grey()
    assert float(psnr(coloured, truth)[0]) > float(psnr(grey, truth)[0]) + 3
