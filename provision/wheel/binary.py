"""What a compiled module asks of a host's C and C++ libraries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version


@dataclass(frozen=True, kw_only=True)
class Floors:
    """The oldest library versions a module loads with; "" when it asks for none."""

    glibc: str
    glibcxx: str


def read_floors(module: Path) -> Floors:
    """Read the symbol versions a shared object needs (ELF section .gnu.version_r)."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection

    with module.open("rb") as file:
        names = [
            version.name
            for section in ELFFile(file).iter_sections()
            if isinstance(section, GNUVerNeedSection)
            for _library, versions in section.iter_versions()
            for version in versions
        ]
    return floors_of(names)


def floors_of(names: Iterable[str]) -> Floors:
    """Symbol version names such as "GLIBC_2.34" and "GLIBCXX_3.4.30" → the highest of each."""
    by_library: dict[str, list[str]] = {"GLIBC": [], "GLIBCXX": []}
    for name in names:
        library, _, version = name.partition("_")
        if library in by_library:
            by_library[library].append(version)
    return Floors(glibc=highest(by_library["GLIBC"]), glibcxx=highest(by_library["GLIBCXX"]))


def highest(versions: Iterable[str]) -> str:
    """The highest version, by number and not by text; "" of none. GLIBC_PRIVATE is passed over."""
    numbers = []
    for text in versions:
        try:
            numbers.append(Version(text))
        except InvalidVersion:
            continue
    return str(max(numbers)) if numbers else ""
