"""Room on the disks that a run writes to: kept for its last word, and whether there is any left.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8, Linux.
"""

from __future__ import annotations

import os
from typing import Any

RESERVE = 1 << 18  # bytes kept on disk for exit.json, for the case that a run fills the disk
FULL = 1 << 16  # bytes; a disk that has no more left is full


def read_full(run_dir: str, plan: dict[str, Any]) -> str:
    """The run's folder, or the one of its output, if nothing more can be written there."""
    for folder in (run_dir, plan["environ"].get("ZEROFLEET_OUTPUT_DIR", "")):
        if folder and os.path.isdir(folder):
            disk = os.statvfs(folder)
            if disk.f_blocks and disk.f_bavail * disk.f_frsize < FULL:
                return folder
    return ""


def keep_room(run_dir: str) -> None:
    """Bytes on the disk that exit.json can have when the run has filled all others."""
    with open(os.path.join(run_dir, "reserve"), "wb") as file:
        os.posix_fallocate(file.fileno(), 0, RESERVE)
