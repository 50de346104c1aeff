"""Put pushed files in place on a host: make folders, then hash and rename.

    place.py folders TARGET…               make each target's folder; answers absolute targets
    place.py files [TARGET SHA256 MODE]…   hash TARGET.partial, then rename it to TARGET

Relative targets are below HOME. Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys


def absolute(target: str) -> str:
    """A target below HOME unless absolute."""
    return os.path.join(os.path.expanduser("~"), os.path.expanduser(target))


def digest(path: str) -> str:
    """sha256 of a file, in hexadecimal."""
    sha = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            sha.update(block)
    return sha.hexdigest()


def folders(targets: list[str]) -> dict[str, list[str]]:
    """Make the targets' folders; our own below ~/.zerofleet are private."""
    made = [absolute(target) for target in targets]
    own = absolute(".zerofleet")
    for path in made:
        if path.startswith(own + os.sep):
            os.makedirs(own, mode=0o700, exist_ok=True)
        os.makedirs(os.path.dirname(path), exist_ok=True)
    return {"targets": made}


def files(triples: list[str]) -> dict[str, list[str]]:
    """Rename what hashes right; a file that does not is removed and reported."""
    problems = []
    for target, wanted, mode in zip(triples[0::3], triples[1::3], triples[2::3]):
        partial = target + ".partial"
        found = digest(partial)
        if found != wanted:
            os.remove(partial)
            problems.append("%s: sha256 %s, sent %s" % (target, found[:12], wanted[:12]))
            continue
        os.chmod(partial, int(mode, 8))
        os.replace(partial, target)
    return {"problems": problems}


if __name__ == "__main__":
    answer = {"folders": folders, "files": files}[sys.argv[1]](sys.argv[2:])
    print("ZEROFLEET<<%s>>ZEROFLEET" % json.dumps(answer))
