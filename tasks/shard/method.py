"""The inversion method that a configuration names."""

from __future__ import annotations

from fpcore.inversion.methods import Method, method
from tasks.config import RunConfig


def inversion_method(config: RunConfig) -> Method:
    """The inversion method of a configuration. Raises ValueError for options that do not fit together."""
    return method(
        config.method,
        tolerance=config.tolerance,
        iterations=config.iterations,
        guess=config.guess,
        damping=config.damping,
        anderson=config.anderson,
    )
