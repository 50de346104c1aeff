"""What of a host's home is ours, and which environment is in use there.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8.
"""

from __future__ import annotations

import os

ROOT = os.path.join(os.path.expanduser("~"), ".zerofleet")
ENVS, STORE, RUNS = (os.path.join(ROOT, name) for name in ("envs", "store", "runs"))
CURRENT = os.path.join(ROOT, "current")


def make_root(root: str) -> None:
    """~/.zerofleet, private. Where it is a link, the folder that it names, which may not be there
    yet: in a home that hosts share, one link gives each a folder on a disk of its own.
    """
    os.makedirs(os.path.realpath(root), mode=0o700, exist_ok=True)


def in_use() -> str | None:
    """The environment that ``current`` names, there or not."""
    try:
        return os.path.basename(os.readlink(CURRENT))
    except OSError:
        return None
