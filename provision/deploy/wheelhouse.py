"""The wheels of an environment on this machine: what is kept of them, and how the rest comes.

Each lies in ``<folder>/<sha256>/<wheel>``; it is there only after its hash was found right. pip
brings them, because the user's pip configuration (index, mirror, proxy, certificates, local
folders) says where packages come from, and uv does not read it
(https://docs.astral.sh/uv/pip/compatibility/#configuration-files-and-environment-variables).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import Tag
from packaging.utils import canonicalize_name, parse_wheel_filename

from provision.deploy.platform import Platform

#: uv's pin: the builds of it that run on any Linux.
UV_LOCK = Path(__file__).parents[2] / "locks" / "uv.lock"
#: Bytecode is about as large as its source, and half the files are imported at most.
_BYTECODE = 1.0
_COMMENT = re.compile(r"(^|\s)#.*")


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A line of a lock: one version, and the hashes of its files."""

    name: str
    version: str
    hashes: frozenset[str]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def line(self) -> str:
        """As a line of a requirements file, without markers."""
        hashes = "".join(f" --hash=sha256:{sha256}" for sha256 in sorted(self.hashes))
        return f"{self.name}=={self.version}{hashes}\n"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A wheel that is here."""

    path: Path
    sha256: str

    @property
    def wheel(self) -> str:
        """Its file name."""
        return self.path.name

    @property
    def tags(self) -> frozenset[Tag]:
        """What it installs on, by its name."""
        return parse_wheel_filename(self.wheel)[3]

    @cached_property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def read_unpacked(self) -> tuple[int, int]:
        """(bytes, files) that it becomes, bytecode included."""
        with zipfile.ZipFile(self.path) as archive:
            files = archive.infolist()
        sources = [one.file_size for one in files if one.filename.endswith(".py")]
        size = sum(one.file_size for one in files) + int(_BYTECODE * sum(sources))
        return size, len(files) + len(sources)


@dataclass(frozen=True, kw_only=True)
class Wheelhouse:
    """The wheels that hosts of a platform need beside those that were built; ``uv`` installs them.

    ``missing``: pins of which no file that fits is here yet.
    """

    platform: Platform
    packages: tuple[Package, ...]
    uv: Package | None
    missing: tuple[Pin, ...]

    @property
    def uv_missing(self) -> bool:
        """Whether uv is not here yet."""
        return self.uv is None


def parse_pins(requirements: str, platform: Platform) -> tuple[Pin, ...]:
    """The lines of a hash-locked requirements file that count on a platform."""
    pins = []
    for line in requirements.replace("\\\n", " ").splitlines():
        text, *hashes = re.split(r"\s+--hash=sha256:", _COMMENT.sub("", line).strip())
        if not text:
            continue
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(platform.markers):
            (exact,) = requirement.specifier
            name = canonicalize_name(requirement.name)
            pins.append(Pin(name=name, version=exact.version, hashes=frozenset(hashes)))
    return tuple(pins)


def static_tags(platform: Platform) -> Mapping[Tag, int]:
    """The tag of programs that are linked statically, on a machine. https://peps.python.org/pep-0656/"""
    return {Tag("py3", "none", f"musllinux_1_1_{platform.machine}"): 0}


def read_wheelhouse(folder: Path, requirements: str, platform: Platform) -> Wheelhouse:
    """What is here of what a hash-locked requirements file asks for on a platform."""
    pins = parse_pins(requirements, platform)
    kept = {pin: read_kept(folder, pin, platform.tags) for pin in pins}
    (uv,) = parse_pins(UV_LOCK.read_text(encoding="utf-8"), platform)
    return Wheelhouse(
        platform=platform,
        packages=tuple(package for package in kept.values() if package),
        uv=read_kept(folder, uv, static_tags(platform)),
        missing=tuple(pin for pin, package in kept.items() if package is None),
    )


def read_kept(folder: Path, pin: Pin, tags: Mapping[Tag, int]) -> Package | None:
    """The file of a pin that is here and fits ``tags`` (tag → rank) best; None if none does.

    One that a crash left empty or cut short is not here: it comes again.
    """
    found = []
    for sha256 in sorted(pin.hashes):
        for path in sorted((folder / sha256).glob("*.whl")):
            package = Package(path=path, sha256=sha256)
            rank = best(package.tags, tags)
            if rank is not None and zipfile.is_zipfile(path):
                found.append((rank, package))
    return min(found, key=lambda each: each[0])[1] if found else None


def best(tags: Iterable[Tag], ranks: Mapping[Tag, int]) -> int | None:
    """The best rank that any of these tags has; None if none has one."""
    return min((ranks[tag] for tag in tags if tag in ranks), default=None)
