"""Put pushed files in place on a host: make folders, then hash and rename.

    place.py folders TARGET…               make each target's folder; answers absolute targets
    place.py files [TARGET SHA256 MODE]…   hash TARGET.partial, then rename it to TARGET
    place.py look                          what the store holds of what stdin's one line asks for
    place.py tree SHA256 NAME              make the folder store/SHA256/NAME of its manifest

Relative targets are below HOME. A manifest is what sha256sum writes and reads; the folder's files
are hard links to the store's, so what several folders share is there, and pushed, once.

Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
from typing import Callable, Mapping

from provision.onhost.converse import fail, reply
from provision.onhost.files import absolute, digest, manifest_rows
from provision.onhost.home import make_root


def make_folder(path: str) -> None:
    """A folder and those above it; our own below ~/.zerofleet are private."""
    own = absolute(".zerofleet")
    if (path + os.sep).startswith(own + os.sep):
        make_root(own)
    os.makedirs(path, exist_ok=True)


def hold_store(kind: int) -> int | None:
    """The store for pushes (LOCK_SH: they share it), or for who removes of it (LOCK_EX).

    A push waits; who removes does not: None where one is at work, on any host of a shared home.
    It is held until this process ends, or the descriptor is closed.
    """
    store = absolute(".zerofleet/store")
    make_folder(store)
    path = os.path.join(store, ".lock")
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, kind if kind == fcntl.LOCK_SH else kind | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:  # an undeploy removed all of it meanwhile
            make_folder(store)
        os.close(lock)


def folders(targets: list[str]) -> dict[str, list[str]]:
    """Make the targets' folders."""
    made = [absolute(target) for target in targets]
    for path in made:
        make_folder(os.path.dirname(path))
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


def stored(sha256: str) -> str:
    """The file of that hash in the store, whatever its name; "" if it is not there."""
    folder = absolute(os.path.join(".zerofleet/store", sha256))
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    paths = [os.path.join(folder, name) for name in names if not name.endswith(".partial")]
    return next((path for path in paths if os.path.isfile(path)), "")


def look(_: list[str]) -> dict[str, object]:
    """Of {"path", "sha256s"}: whether the path is there, and which of the files are."""
    asked = json.loads(sys.stdin.readline())
    there = os.path.exists(absolute(asked["path"]))
    held = [] if there else [sha256 for sha256 in asked["sha256s"] if stored(sha256)]
    return {"there": there, "held": held, "path": absolute(asked["path"])}


def tree(args: list[str]) -> dict[str, object]:
    """Make a folder of the store; its name is there only when it is whole."""
    hold_store(fcntl.LOCK_SH)
    folder = absolute(os.path.join(".zerofleet/store", args[0]))
    target = os.path.join(folder, args[1])
    made = target + ".partial"
    with open(os.path.join(folder, "manifest"), encoding="utf-8") as lines:
        fcntl.flock(lines, fcntl.LOCK_EX)  # two pushes of one folder
        files = [(path, stored(sha256)) for sha256, path in manifest_rows(lines)]
        for path, there in files:
            if not there:
                fail("%s was removed meanwhile, by a clean: run the command again" % path)
        if os.path.isdir(target):
            mend_tree(target, files)
        else:
            shutil.rmtree(made, ignore_errors=True)
            for path, there in files:
                name = os.path.join(made, path)
                os.makedirs(os.path.dirname(name), exist_ok=True)
                os.link(there, name)
            os.rename(made, target)
    return {"path": target}


def mend_tree(folder: str, files: list[tuple[str, str]]) -> None:
    """Have a folder of the store hold the store's own files again, each at once."""
    for path, there in files:
        link = os.path.join(folder, path)
        if not os.path.exists(link) or not os.path.samefile(link, there):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            link_at_once(there, link)


def link_at_once(there: str, link: str) -> None:
    """Have a name be that of another file, in one step."""
    with contextlib.suppress(FileNotFoundError):  # of an interrupted one
        os.unlink(link + ".partial")
    os.link(there, link + ".partial")
    os.replace(link + ".partial", link)


def relink(there: str, sha256: str) -> None:
    """Have the store's folders that hold a file link to the one that is there now, each at once."""
    store = os.path.dirname(os.path.dirname(there))
    for digest_folder in [os.path.join(store, name) for name in os.listdir(store)]:
        manifest = os.path.join(digest_folder, "manifest")
        if not os.path.isfile(manifest):
            continue
        with open(manifest, encoding="utf-8") as lines:
            paths = [path for found, path in manifest_rows(lines) if found == sha256]
        for name in os.listdir(digest_folder):
            for link in [os.path.join(digest_folder, name, path) for path in paths]:
                if os.path.isfile(link) and not os.path.samefile(link, there):
                    link_at_once(there, link)


if __name__ == "__main__":
    commands: dict[str, Callable[[list[str]], Mapping[str, object]]] = {
        "folders": folders, "files": files, "look": look, "tree": tree
    }  # fmt: skip
    reply(commands[sys.argv[1]](sys.argv[2:]))
