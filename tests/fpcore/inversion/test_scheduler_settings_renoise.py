"""Every scheduler setting that loading keeps, under ReNoise."""

from __future__ import annotations

from typing import get_args

import pytest

from fpcore.inversion.methods import MethodName
from tests.fpcore.inversion.scheduler_settings import check_every_schedule


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in get_args(MethodName) if name.startswith("renoise")])
def test_renoise_walks_every_schedule(name: str) -> None:
    check_every_schedule(name)
