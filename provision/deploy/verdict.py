"""Can every host take this environment? Said before a byte is pushed, of all hosts at once. Pure.

Whether the hosts fit the wheel is parity's to say (hosts/parity.py); this is about the packages
beside it, and about room for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provision.deploy.platform import platform_of
from provision.deploy.wheelhouse import Wheelhouse
from provision.findings import UNREAD, Finding, Report
from provision.hosts.facts import HostFacts
from provision.numbers import size

#: Kept free beside what is counted: unpacking needs some, and a run begins to write at once.
_SPARE_BYTES, _SPARE_FILES = 1 << 30, 1000
_FOLDER = "~/.zerofleet"
_REMEDY = "make room there, or a link from ~/.zerofleet to a larger file system"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an environment takes: bytes to push by host; bytes and files to unpack on each."""

    push: Mapping[str, int]
    unpacked: int
    files: int


def compare_deploy(
    hosts: Mapping[str, HostFacts], house: Wheelhouse | None, python_tag: str, needs: Needs | None
) -> Report:
    """Findings of the hosts that are to get an environment.

    Args:
        hosts: those that lack it.
        house: what they get; None where each downloads by itself.
        python_tag: of the wheel.
        needs: None where it is not known, as every host downloads by itself.
    """
    findings: list[Finding] = []
    for facts in hosts.values():
        findings += _disk(facts, needs)
        findings += [_venv(facts, python_tag)] if house is None else []
        findings += _packages(facts, house, python_tag) if house else []
    return Report(findings=tuple(findings))


def _disk(facts: HostFacts, needs: Needs | None) -> list[Finding]:
    """Room, and whether programs run from it at all."""
    disks = facts["disks"]
    disk: Mapping[str, Any] = (disks.value or {}).get(_FOLDER) or {"error": str(disks)}
    expected = "a file system to write to, that programs may run from"
    if "error" in disk:
        return [facts.judge.judged("disk", None, str(disk["error"]), expected, UNREAD)]
    where = f"{disk['mount']} ({disk['type']})"
    kinds = {"read_only": "is mounted read-only", "noexec": "is mounted noexec"}
    wrong = [words for key, words in kinds.items() if disk[key]]
    wrong += ["may not be written to"] if not disk["writable"] and not disk["read_only"] else []
    if wrong:
        return [facts.judge.judged("disk", False, f"{where} {wrong[0]}", expected, _REMEDY)]
    if needs is None:
        return []
    wanted = needs.push.get(facts.host, 0) + needs.unpacked + _SPARE_BYTES
    found, least = f"{size(disk['free'])} free on {where}", size(wanted)
    good = disk["free"] >= wanted
    findings = [facts.judge.judged("disk", good, found, f"{least} for the environment", _REMEDY)]
    if disk["inodes"]:
        files = needs.files + _SPARE_FILES
        found, good = (
            f"{disk['inodes_free']:,} inodes free on {where}",
            disk["inodes_free"] >= files,
        )
        findings += [facts.judge.judged("disk.inodes", good, found, f"{files:,}", _REMEDY)]
    return findings


def _venv(facts: HostFacts, python_tag: str) -> Finding:
    python = facts.python_for(python_tag)
    release = f"{python_tag[2]}.{python_tag[3:]}"
    found = (
        "none" if python is None else f"{python.version} with{'' if python.venv else 'out'} venv"
    )
    remedy = f"install python{release}-venv there, or deploy with --env-source wheelhouse"
    good = python is not None and python.venv
    return facts.judge.judged("python.venv", good, found, f"{release} with venv and pip", remedy)


def _packages(facts: HostFacts, house: Wheelhouse, python_tag: str) -> list[Finding]:
    platform = platform_of(facts, python_tag)
    if platform is None:
        found = f"glibc {facts['glibc']}"
        return [facts.judge.judged("packages", None, found, "a glibc that is known", UNREAD)]
    odd = [one.wheel for one in house.packages if platform.rank(one.tags) is None]
    found, expected = ", ".join(odd[:3]) or "all fit", f"wheels that install on {platform}"
    remedy = "use a newer OS there, or lock others"
    return [facts.judge.judged("packages", not odd, found, expected, remedy)]
