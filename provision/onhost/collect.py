"""List the files below folders, with their hashes, to be fetched.

    collect.py list [--no-checkpoints] FOLDER…
                               answers {"files": [{"path", "size", "sha256"}]}, paths absolute

A folder that is not there holds no file; a file is taken as it is now: of one that still grows, the
bytes that are there. ``--no-checkpoints`` goes past the ``checkpoint-N`` folders right below a
FOLDER. Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from typing import Any, Iterator

from provision.onhost.converse import reply

CHECKPOINT = re.compile(r"checkpoint-\d+$")


def below(folder: str, checkpoints: bool) -> Iterator[str]:
    """Regular files below a folder, sorted; links are not followed out of it."""
    if os.path.isfile(folder):
        yield folder
    for root, folders, names in os.walk(folder):
        if root == folder and not checkpoints:
            folders[:] = [name for name in folders if not CHECKPOINT.match(name)]
        folders.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def read_file(path: str) -> dict[str, Any] | None:
    """A file's size, and the sha256 of so many bytes of it; None if it went away meanwhile."""
    sha, left = hashlib.sha256(), 0
    try:
        with open(path, "rb") as stream:
            size = left = os.fstat(stream.fileno()).st_size
            while left:
                block = stream.read(min(left, 1 << 20))
                if not block:
                    break
                sha.update(block)
                left -= len(block)
    except FileNotFoundError:
        return None
    return {"path": path, "size": size - left, "sha256": sha.hexdigest()}


if __name__ == "__main__":
    skip = sys.argv[2:3] == ["--no-checkpoints"]
    found = [
        read_file(path)
        for folder in sys.argv[3 if skip else 2 :]
        for path in below(os.path.abspath(os.path.expanduser(folder)), not skip)
    ]
    files = [file for file in found if file]
    reply({"files": files})
