"""The command ``fixpoint``, also as ``python -m fixpoint``.

The packages ``flows`` and ``tasks`` have common names. This module stands beside them, so it can put its own folder first
on the path: the current folder, or one that PYTHONPATH names, may have a ``flows`` or ``tasks`` of its own.
"""

import sys
from pathlib import Path


def main() -> None:
    """Entry point."""
    own = str(Path(__file__).resolve().parent)
    sys.path[:] = [own, *(entry for entry in sys.path if entry != own)]
    from flows.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
