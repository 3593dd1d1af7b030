"""Sliding windows of any length by doubling."""

import torch

from fpcore.evaluation.windows import sliding, window_mean


def test_every_window_is_summed_and_searched_whole() -> None:
    x = torch.rand(2, 20, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for window in range(1, 18):
        windows = x.unfold(1, window, 1).unfold(2, window, 1)
        torch.testing.assert_close(window_mean(x, window), windows.mean((-1, -2)))
        least = sliding(sliding(x, window, 1, torch.minimum), window, 2, torch.minimum)
        assert torch.equal(least, windows.amin((-1, -2)))
