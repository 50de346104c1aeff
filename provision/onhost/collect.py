"""List the files below folders, with their hashes, to be fetched.

    collect.py list [--no-checkpoints] FOLDER…
                               answers {"files": [{"path", "size", "sha256"}]}, paths absolute

A folder that is not there holds no file; a file is taken as it is. ``--no-checkpoints`` goes past
the ``checkpoint-N`` folders right below a FOLDER. Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from typing import Iterator

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


def digest(path: str) -> str:
    """sha256 of a file, in hexadecimal."""
    sha = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            sha.update(block)
    return sha.hexdigest()


if __name__ == "__main__":
    skip = sys.argv[2:3] == ["--no-checkpoints"]
    files = [
        {"path": path, "size": os.path.getsize(path), "sha256": digest(path)}
        for folder in sys.argv[3 if skip else 2 :]
        for path in below(os.path.abspath(os.path.expanduser(folder)), not skip)
    ]
    print("ZEROFLEET<<%s>>ZEROFLEET" % json.dumps({"files": files}))
