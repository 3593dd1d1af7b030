"""The command ``fixpoint``."""

from flows.cli.app import main

__all__ = ["main"]
