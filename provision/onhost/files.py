"""Where a file is on a host, what is in it, and that it is on the disk: fsync(2), syncfs(2).

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from typing import Iterable


def absolute(path: str) -> str:
    """A path below HOME unless absolute."""
    return os.path.join(os.path.expanduser("~"), os.path.expanduser(path))


def digest(path: str) -> str:
    """sha256 of a file, in hexadecimal."""
    sha = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            sha.update(block)
    return sha.hexdigest()


def manifest_rows(lines: Iterable[str]) -> list[tuple[str, str]]:
    """(sha256, path) of each line of a manifest, as sha256sum writes it."""
    rows = (line.rstrip("\n").partition("  ") for line in lines)
    return [(sha256, path) for sha256, _, path in rows]


def sync_folder(folder: str) -> None:
    """Have a folder's entries on the disk: fsync(2) says why the file alone is not enough."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: str) -> None:
    """Have all on the disk that was written to a folder's file system, before what comes next.

    Else ext4 may keep what comes next, and of the files before it the names alone.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs", folder)
    finally:
        os.close(descriptor)
