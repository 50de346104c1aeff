"""What took a host long to find out, kept in ~/.zerofleet/seen for the next time.

Digests of large files, and ops that loaded: each under a key (path, size, time and inode of what it
was found out from), which is another once that has changed.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8.
"""

from __future__ import annotations

import json
import os
import tempfile

from provision.onhost.home import make_root

SEEN = "~/.zerofleet/seen"


def recall(name: str, key: object) -> object:
    """What was found out for this name and key before; None if nothing was."""
    path = os.path.join(os.path.expanduser(SEEN), name + ".json")
    try:
        with open(path) as stream:
            record = json.load(stream)
    except (OSError, ValueError):
        return None
    return record.get("found") if record.get("key") == key else None


def remember(name: str, key: object, found: object) -> None:
    """Keep it for the next time; a host where that fails finds it out again."""
    folder = os.path.expanduser(SEEN)
    try:
        make_root(os.path.dirname(folder))
        os.makedirs(folder, mode=0o700, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=folder, prefix=".partial-")
        with os.fdopen(descriptor, "w") as stream:
            json.dump({"key": key, "found": found}, stream)
        os.replace(partial, os.path.join(folder, name + ".json"))
    except OSError:
        pass
