"""Flows import no torch, so the configuration repeats names of fpcore; here they are compared."""

from typing import Any, get_args

import pytest

from fpcore.dehazing.dehaze import DehazingMethod
from fpcore.editing.guidance import GuidanceMode
from fpcore.inversion.methods import MethodName
from tasks import config


@pytest.mark.parametrize(
    ("ours", "theirs", "beside"),
    [
        (config.MethodName, MethodName, set()),
        (config.DehazingMethod, DehazingMethod, {"density", "density+words", "even-veil", "dcp"}),
        (config.GuidanceMode, GuidanceMode, set()),
    ],
)
def test_the_names_a_run_may_take_are_those_that_are_there(ours: Any, theirs: Any, beside: set[str]) -> None:
    assert set(get_args(ours)) - beside == set(get_args(theirs))
