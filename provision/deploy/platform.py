"""What files a host can install: its Python, machine and glibc, as pip's tags and markers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from packaging.tags import Tag, compatible_tags, cpython_tags

from provision.hosts.facts import HostFacts, parse_version

#: manylinux tags from before they named a glibc. https://peps.python.org/pep-0600/#legacy-manylinux-tags
_LEGACY = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}
#: The first glibc of a manylinux tag on each machine. https://peps.python.org/pep-0599/
_FIRST_MINOR = {"x86_64": 5, "aarch64": 17}


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A Linux host with glibc, as far as it decides which wheel of a package it takes.

    Attributes:
        machine: as ``uname -m``, such as "x86_64".
        glibc: such as (2, 36).
        python_tag: such as "cp311".
    """

    machine: str
    glibc: tuple[int, int]
    python_tag: str

    def __str__(self) -> str:
        glibc = ".".join(map(str, self.glibc))
        return f"{self.machine}, glibc {glibc}, Python {self.python}"

    @property
    def python(self) -> str:
        """Its Python's release, such as "3.11"."""
        return f"{self.python_tag[2]}.{self.python_tag[3:]}"

    @cached_property
    def platforms(self) -> tuple[str, ...]:
        """Its platform tags, the newest glibc first."""
        found = []
        for minor in range(self.glibc[1], _FIRST_MINOR.get(self.machine, 17) - 1, -1):
            found.append(f"manylinux_2_{minor}_{self.machine}")
            if legacy := _LEGACY.get((2, minor)):
                found.append(f"{legacy}_{self.machine}")
        return (*found, f"linux_{self.machine}")

    @cached_property
    def tags(self) -> Mapping[Tag, int]:
        """Every tag of a wheel that installs there → its rank; the best fit is 0."""
        release = (int(self.python_tag[2]), int(self.python_tag[3:]))
        tags = [
            *cpython_tags(release, [self.python_tag], self.platforms),
            *compatible_tags(release, self.python_tag, self.platforms),
        ]
        return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}

    @cached_property
    def markers(self) -> dict[str, str]:
        """What environment markers are evaluated with. https://peps.python.org/pep-0508/"""
        return {
            "extra": "",
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }

    def rank(self, tags: Iterable[Tag]) -> int | None:
        """How well a wheel of these tags fits (0 is best); None if it does not install."""
        return min((self.tags[tag] for tag in tags if tag in self.tags), default=None)


def platform_of(facts: HostFacts, python_tag: str) -> Platform | None:
    """One host's platform; None where its machine or its glibc is not known."""
    glibc = parse_version(facts["glibc"].value)
    if glibc is None or facts["machine"].value is None:
        return None
    return Platform(
        machine=str(facts["machine"].value),
        glibc=(glibc.major, glibc.minor),
        python_tag=python_tag,
    )


def oldest(hosts: Mapping[str, HostFacts], python_tag: str) -> Platform:
    """What all hosts can install: that of the one with the oldest glibc.

    The hosts are of one machine and their glibc is known: parity has seen to it.
    """
    found = [platform_of(facts, python_tag) for facts in hosts.values()]
    known = [each for each in found if each is not None]
    if not known or len(known) < len(found):
        raise ValueError("a host whose glibc is not known")
    return min(known, key=lambda each: each.glibc)
