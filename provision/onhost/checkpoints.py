"""What checkpoints of a run are on this host, and which of them were torn.

    checkpoints.py list OUTPUT    answers {"checkpoints": {STEP: {…}}, "torn": {STEP: why}}

A checkpoint is a folder ``OUTPUT/checkpoint-STEP`` whose ``checkpoint.json``, which the trainer
writes last on each host (trainer/checkpoints.py), lists every file that it has here; one that
lacks any of them, or holds one of another size, was torn. Standard library only, Python 3.8 or
later.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

from provision.onhost.converse import reply

NAME = re.compile(r"checkpoint-(\d+)$")
MANIFEST = "checkpoint.json"
KEYS = ("step", "save", "world_size", "ranks", "zero_stage")


def read_checkpoint(folder: str) -> dict[str, Any]:
    """What the manifest says of a checkpoint; ValueError says why it is none to go on from."""
    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as stream:
            manifest = json.load(stream)
        found = {key: manifest[key] for key in KEYS}
        sizes = {name: int(file["size"]) for name, file in manifest["files"].items()}
    except FileNotFoundError:
        raise ValueError("no %s: it was not saved to its end" % MANIFEST) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("%s can't be read (%s)" % (MANIFEST, error)) from None
    for name, size in sizes.items():
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            raise ValueError("%s is missing" % name)
        if os.path.getsize(path) != size:
            raise ValueError("%s has %d bytes of %d" % (name, os.path.getsize(path), size))
    return found


def read_checkpoints(output: str) -> dict[str, dict[str, Any]]:
    """Those below an output folder, by step: to go on from, and torn."""
    found: dict[str, Any] = {}
    torn: dict[str, str] = {}
    for name in os.listdir(output) if os.path.isdir(output) else []:
        match = NAME.match(name)
        if not match:
            continue
        try:
            found[match.group(1)] = read_checkpoint(os.path.join(output, name))
        except ValueError as error:
            torn[match.group(1)] = str(error)
    return {"checkpoints": found, "torn": torn}


if __name__ == "__main__":
    reply(read_checkpoints(os.path.abspath(os.path.expanduser(sys.argv[2]))))
