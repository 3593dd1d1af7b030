"""Holes to measure inpainting by."""

import numpy as np

from fpcore.restoration.random_hole import LEAST, MOST, random_hole


def test_holes_cover_what_they_should_and_follow_from_the_seed() -> None:
    holes = [random_hole(48, 64, np.random.default_rng(seed)) for seed in range(30)]
    shares = np.array([hole.mean() for hole in holes])
    assert (shares > LEAST - 0.01).all()
    assert (shares < MOST + 0.01).all()
    assert shares.std() > 0.01
    assert (random_hole(48, 64, np.random.default_rng(7)) == holes[7]).all()
    widths = [hole.any(0).sum() for hole in holes]
    assert min(widths) < 32 < 60 < max(widths), "some are in one place, some all over the picture"
