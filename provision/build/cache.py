"""Where builds keep what they may need again, and the lock that keeps two builds apart."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from provision.errors import ConfigError
from provision.places import cache_home
from provision.wheel import manifest
from provision.wheel.manifest import WheelManifest

#: Beside a kept wheel: what its key was made of.
_FACTS = "key.json"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The cache folder's rooms.

    ``work`` is one fixed path on purpose: a source path that changes from build to build costs
    ccache every hit, and the build its reproducibility.
    """

    root: Path

    @property
    def environments(self) -> Path:
        """One virtual environment per key."""
        return self.root / "environments"

    @property
    def sources(self) -> Path:
        """One folder per source archive, named by its sha256."""
        return self.root / "sources"

    @property
    def work(self) -> Path:
        """The build at hand."""
        return self.root / "work"

    @property
    def tree(self) -> Path:
        """The source that is compiled, and the objects that the build before left in it."""
        return self.work / "source"

    @property
    def wheels(self) -> Path:
        """One folder per wheel key: finished wheels, each with its manifest."""
        return self.root / "wheels"

    @property
    def logs(self) -> Path:
        """One log per wheel, named by its version."""
        return self.root / "logs"

    @property
    def lock(self) -> Path:
        """Held while anything in here is made."""
        return self.root / "lock"


def cache_dir(environ: Mapping[str, str]) -> Path:
    """The build cache: ``build`` in this user's cache of ours."""
    return cache_home(environ) / "build"


def key_of(facts: Mapping[str, object]) -> str:
    """A name for whatever these facts decide: the sha256 of their JSON, keys sorted."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def apply_facts(facts: Mapping[str, object], folder: Path) -> None:
    """Write down beside a kept wheel what its key was made of."""
    (folder / _FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def read_nearest(layout: Layout, facts: Mapping[str, object]) -> tuple[str, tuple[str, ...]] | None:
    """The kept wheel whose key differs in the fewest parts: its name, and those parts.

    None when the cache holds no wheel. Of several as near, the newest.
    """
    found: list[tuple[int, float, str, tuple[str, ...]]] = []
    for path in layout.wheels.glob(f"[!.]*/{_FACTS}"):
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        # Through JSON, as the kept ones came: there a tuple is a list.
        wanted = json.loads(json.dumps(facts))
        names = kept.keys() | wanted.keys()
        parts = tuple(sorted(name for name in names if kept.get(name) != wanted.get(name)))
        wheels = sorted(one.name for one in path.parent.glob("*.whl"))
        if wheels:
            found.append((len(parts), -path.stat().st_mtime, wheels[0], parts))
    return (min(found)[2], min(found)[3]) if found else None


@contextlib.contextmanager
def apply_lock(layout: Layout, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the cache's lock; says so when another build has it, and waits.

    The kernel lets go of it when its holder ends, however that happens.
    """
    layout.root.mkdir(parents=True, exist_ok=True)
    with layout.lock.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "?"
            say(f"another build (pid {holder}) is at work in {layout.root}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def read_kept_wheel(folder: Path) -> WheelManifest | None:
    """The one wheel of a folder, or None when there is none or it is not whole."""
    try:
        return manifest.read_wheel(folder)
    except ConfigError:
        # A kept copy that is missing or damaged is simply built again.
        return None


def apply_copy(wheel: WheelManifest, *, source: Path, target: Path) -> None:
    """Copy a wheel and its manifest into ``target``: both, or nothing is changed there."""
    target.mkdir(parents=True, exist_ok=True)
    staging = target / f".{wheel.wheel}.{os.getpid()}"
    try:
        staging.mkdir()
        shutil.copyfile(source / wheel.wheel, staging / wheel.wheel)
        sidecar = manifest.apply_manifest(wheel, staging)
        (staging / wheel.wheel).replace(target / wheel.wheel)
        sidecar.replace(target / sidecar.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
