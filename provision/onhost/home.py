"""What of a host's home is ours, and which environment is in use there.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8.
"""

from __future__ import annotations

import os

ROOT = os.path.join(os.path.expanduser("~"), ".zerofleet")
ENVS, STORE, RUNS = (os.path.join(ROOT, name) for name in ("envs", "store", "runs"))
CURRENT = os.path.join(ROOT, "current")


def in_use() -> str | None:
    """The environment that ``current`` names, there or not."""
    try:
        return os.path.basename(os.readlink(CURRENT))
    except OSError:
        return None
