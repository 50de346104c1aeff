"""The source tree that is compiled, and the objects that an earlier build left in it.

One path for all builds, so that ninja finds objects of files that have not changed since. It goes
by modification times; so a file keeps its own as long as its bytes are the same, and gets the
present one when they change. Objects are kept only from a build of the same compiler, flags,
torch and toolkit, and only if that build's compiling came to an end by itself.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from provision.build.cache import Layout, key_of
from provision.build.source import apply_unpack
from provision.process import apply_end_recorded

#: Of a wheel's facts, those that decide which objects there are, and not what is in each.
_NOT_OF_OBJECTS = frozenset(["isa_checked", "ops", "source"])
#: Where setuptools puts objects, below the tree.
_BUILD = "build"
_OBJECTS = "temp."


def objects_key(facts: Mapping[str, object], environment: Path) -> str:
    """A name for everything but the sources that decides what is in an object file."""
    kept = {name: fact for name, fact in facts.items() if name not in _NOT_OF_OBJECTS}
    return key_of({**kept, "environment": str(environment)})


def apply_room(layout: Layout, key: str) -> bool:
    """Make ``layout.work`` ready for a build; True when objects of an earlier one were kept.

    From here until ``apply_finished`` they count as half made: a build that is killed leaves
    nothing that the next one trusts, and what it left running is ended.
    """
    apply_end_recorded(compiling(layout))
    marker = _marker(layout)
    try:
        kept = json.loads(marker.read_text(encoding="utf-8")) == {"objects": key}
    except (OSError, ValueError):
        kept = False
    if not kept:
        shutil.rmtree(layout.work, ignore_errors=True)
        layout.work.mkdir(parents=True)
        return False
    marker.unlink()
    apply_tidy(layout)
    return True


def compiling(layout: Layout) -> Path:
    """Where a compilation's process is written down while it runs."""
    return layout.work / "compiling.json"


def apply_finished(layout: Layout, key: str) -> None:
    """Say that every object in the tree is whole: the compiler was not cut short."""
    _marker(layout).write_text(json.dumps({"objects": key}), encoding="utf-8")


def apply_tidy(layout: Layout) -> None:
    """Leave nothing in ``layout.work`` but the tree and what says which objects it holds."""
    for path in layout.work.iterdir():
        if path not in (layout.tree, _marker(layout)):
            _remove(path)


def apply_tree(archive_or_tree: Path, layout: Layout) -> None:
    """Make ``layout.tree`` the source that is given, and leave the objects in it alone."""
    fresh = layout.work / "fresh-source"
    apply_unpack(archive_or_tree, fresh)
    if not layout.tree.exists():
        fresh.rename(layout.tree)
        return
    apply_sync(fresh, layout.tree)
    shutil.rmtree(fresh)


def apply_sync(fresh: Path, tree: Path) -> None:
    """Give ``tree`` the files of ``fresh``, touching only what differs; see the module's text."""
    for top in tuple(tree.iterdir()):
        paths = (top, *_walk(top)) if top.name != _BUILD else top.iterdir()
        for path in tuple(paths):
            built = path.parent.name == _BUILD and path.name.startswith(_OBJECTS)
            if not built and not os.path.lexists(fresh / path.relative_to(tree)):
                _remove(path)
    for path in _walk(fresh):
        target = tree / path.relative_to(fresh)
        if path.is_dir() and not path.is_symlink():
            if target.is_symlink() or not target.is_dir():
                _remove(target)
            target.mkdir(exist_ok=True)
        elif not _same(path, target):
            _remove(target)
            path.rename(target)
            if not target.is_symlink():
                os.utime(target)  # an archive's own times may be years old


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below a source folder, folders before what is in them."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        yield path
        yield from _walk(path)


def _same(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    return other.is_file() and one.read_bytes() == other.read_bytes()


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def _marker(layout: Layout) -> Path:
    return layout.work / "objects.json"
