"""The wheels that are there: in the out folder, and in the build cache."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from provision.build.cache import Layout
from provision.errors import ConfigError
from provision.numbers import size
from provision.wheel.manifest import WheelManifest, read_manifest, read_wheel_paths

COLUMNS = ("wheel", "where", "size", "accelerator", "archs", "cpu", "ops", "torch", "age")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One wheel file.

    Attributes:
        where: "wheels" for the out folder, "cache" for the build cache.
        size: in bytes.
        manifest: None when there is none that fits the file; ``problem`` then says why.
    """

    path: Path
    where: str
    size: int
    manifest: WheelManifest | None
    problem: str = ""

    def as_json(self, now: dt.datetime) -> dict[str, object]:
        """One of the ``wheels`` of ``wheels --json``; ``age`` is in seconds."""
        manifest = self.manifest
        age = manifest and (now - dt.datetime.fromisoformat(manifest.built_at)).total_seconds()
        return {
            "path": str(self.path),
            "where": self.where,
            "size": self.size,
            "age": age,
            "manifest": manifest.as_json() if manifest else None,
            "problem": self.problem or None,
        }

    def row(self, now: dt.datetime) -> tuple[str, ...]:
        """The wheel as a row under COLUMNS."""
        if self.manifest is None:
            return (self.path.name, self.where, size(self.size), self.problem, "", "", "", "", "")
        found = self.manifest
        return (
            self.path.name,
            self.where,
            size(self.size),
            found.accelerator,
            " ".join(found.arch_list) or "-",
            found.cpu,
            " ".join(found.ops),
            found.torch,
            age_text((now - dt.datetime.fromisoformat(found.built_at)).total_seconds()),
        )


def read_shelf(folder: Path, layout: Layout) -> tuple[Kept, ...]:
    """All wheels of the out folder, then of the cache, each by name."""
    cached = sorted(layout.wheels.glob("[!.]*/*.whl"), key=lambda path: (path.name, path))
    return (
        *_read_kept(read_wheel_paths(folder), "wheels"),
        *_read_kept(cached, "cache"),
    )


def _read_kept(paths: Iterable[Path], where: str) -> Iterable[Kept]:
    for path in paths:
        size = path.stat().st_size
        try:
            yield Kept(path=path, where=where, size=size, manifest=read_manifest(path))
        except ConfigError as error:
            yield Kept(path=path, where=where, size=size, manifest=None, problem=error.found)


def age_text(seconds: float) -> str:
    """An age as a person says it: "5 min", "3 h", "12 days"."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
