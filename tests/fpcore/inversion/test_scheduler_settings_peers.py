"""Every scheduler setting that loading keeps, under every method but the certified one and ReNoise's, which have files each."""

from __future__ import annotations

from typing import get_args

import pytest

from fpcore.inversion.methods import MethodName
from tests.fpcore.inversion.scheduler_settings import check_every_schedule

PEERS = [name for name in get_args(MethodName) if name != "certified" and not name.startswith("renoise")]


@pytest.mark.long
@pytest.mark.parametrize("name", PEERS)
def test_every_method_walks_every_schedule(name: str) -> None:
    check_every_schedule(name)
