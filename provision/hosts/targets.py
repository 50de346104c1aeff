"""What a wheel has to be to run on every one of these hosts. Pure.

A wheel is compiled once, for all: device code for each GPU there is, the lowest CPU level, no
newer glibc than the oldest. What one host can't say (a fact that is unknown) can't be built for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from provision.compat import CPU_LEVELS, cpu_runs
from provision.findings import UNREAD, Finding, Judge, Report
from provision.hosts.facts import HostFacts, parse_version

MACHINE = "x86_64"
#: The lowest level that x86-64 code is built for here.
LOWEST_CPU = "x86-64-v2"


@dataclass(frozen=True, kw_only=True)
class Target:
    """One host, as far as a wheel has to care.

    Attributes:
        gpus: name and compute capability of each kind of GPU there.
        cpu: its x86-64 level.
        glibc: the version of its C library.
        glibcxx: the newest GLIBCXX symbol version of its libstdc++.
        pythons: wheel tags of the interpreters that can make an environment.
    """

    host: str
    gpus: tuple[tuple[str, str], ...]
    cpu: str
    glibc: Version
    glibcxx: Version
    pythons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The hosts that one wheel is for."""

    accelerator: str
    hosts: tuple[Target, ...]

    @property
    def archs(self) -> tuple[str, ...]:
        """Compute capabilities of all their GPUs, lowest first; none for the cpu accelerator."""
        if self.accelerator != "cuda":
            return ()
        found = {capability for host in self.hosts for _name, capability in host.gpus}
        return tuple(sorted(found, key=Version))

    @property
    def cpu(self) -> str:
        """The lowest x86-64 level among them."""
        return min((host.cpu for host in self.hosts), key=CPU_LEVELS.index)

    @property
    def oldest(self) -> Target:
        """The host with the oldest glibc; of several such, the one with the oldest libstdc++."""
        return min(self.hosts, key=lambda host: (host.glibc, host.glibcxx))

    @property
    def pythons(self) -> tuple[str, ...]:
        """Wheel tags of the interpreters that every host has, in the first host's order."""
        first, *others = self.hosts
        return tuple(tag for tag in first.pythons if all(tag in o.pythons for o in others))

    def __str__(self) -> str:
        oldest = self.oldest
        code = f"arch {';'.join(self.archs)}, " if self.archs else ""
        return (
            f"{len(self.hosts)} hosts: accelerator {self.accelerator}, {code}CPU {self.cpu}, "
            f"glibc {oldest.glibc} on {oldest.host}"
        )


def compare_hosts(hosts: Mapping[str, HostFacts], accelerator: str | None) -> Report:
    """Whether one wheel can be for all of these hosts: everything that is against it."""
    findings: list[Finding] = []
    for facts in hosts.values():
        findings += _compare_facts(facts)
        if accelerator != "cpu":
            findings += _compare_gpus(facts)
    if not findings and accelerator != "cpu":
        findings = _compare_accelerator(hosts, asked=accelerator == "cuda")
    return Report(findings=tuple(findings))


def make_targets(hosts: Mapping[str, HostFacts], accelerator: str | None) -> Targets:
    """The hosts as targets. Call it when compare_hosts found nothing that fails.

    ``accelerator`` None: cuda. A wheel for hosts without a GPU has to be asked for.
    """
    return Targets(
        accelerator=accelerator or "cuda", hosts=tuple(_target(facts) for facts in hosts.values())
    )


def _target(facts: HostFacts) -> Target:
    kinds = dict.fromkeys((str(gpu["name"]), str(gpu["compute_cap"])) for gpu in facts.gpus)
    return Target(
        host=facts.host,
        gpus=tuple(kinds),
        cpu=str(facts["cpu.level"].value),
        glibc=Version(str(facts["glibc"].value)),
        glibcxx=Version(str(facts["glibcxx"].value)),
        pythons=tuple(dict.fromkeys(python.tag for python in facts.pythons if python.venv)),
    )


def misfit(host: str, subject: str, found: object, expected: str, remedy: str) -> Finding:
    """A finding that fails: unknown where ``found`` says so, else an error."""
    good = None if str(found).startswith("unknown") else False
    return Judge(host=host).judged(subject, good, found, expected, remedy)


def _compare_facts(facts: HostFacts) -> list[Finding]:
    host, leave_out = facts.host, "comment the host out of the hosts file"
    if facts["machine"].value != MACHINE:
        expected = f"{MACHINE} (wheels for other machines are not built here)"
        return [misfit(host, "machine", facts["machine"], expected, leave_out)]
    findings = []
    if not cpu_runs(str(facts["cpu.level"].value), LOWEST_CPU):
        expected = f"{LOWEST_CPU} or later"
        findings.append(misfit(host, "cpu", facts["cpu.level"], expected, leave_out))
    for name in ("glibc", "glibcxx"):
        if parse_version(facts[name].value) is None:
            found = "none" if facts[name].absent else facts[name]
            remedy = f"torch needs it: install it there, or {leave_out}"
            findings.append(misfit(host, name, found, "a version", remedy))
    if facts["pythons"].unknown:
        findings.append(misfit(host, "python", facts["pythons"], "a list", UNREAD))
    return findings


def _compare_gpus(facts: HostFacts) -> list[Finding]:
    remedy = "does nvidia-smi work there? or name the list yourself with --arch"
    if facts["gpus"].unknown:
        return [misfit(facts.host, "gpu", facts["gpus"], "a list", remedy)]
    return [
        misfit(
            facts.host,
            "gpu",
            f"unknown compute capability of {gpu.get('name')} ({gpu.get('compute_cap')})",
            "one, such as 9.0",
            remedy,
        )
        for gpu in facts.gpus
        if not re.fullmatch(r"\d+\.\d+", str(gpu.get("compute_cap")))
    ]


def _compare_accelerator(hosts: Mapping[str, HostFacts], *, asked: bool) -> list[Finding]:
    without = [host for host, facts in hosts.items() if not facts.gpus]
    having = [host for host in hosts if host not in without]
    if having or asked:
        expected = f"a GPU, as on {', '.join(having)}" if having else "a GPU (--accelerator cuda)"
        remedy = "comment it out of the hosts file, or build with --accelerator cpu"
    else:
        expected, remedy = "a GPU, or --accelerator cpu", "ask for a CPU wheel: --accelerator cpu"
    return [misfit(host, "gpu", "none", expected, remedy) for host in without]


def fill_flags(flags: Mapping[str, Any], targets: Targets | None) -> dict[str, Any]:
    """Build flags with what the hosts say in place of what was not given.

    ``cpu`` "auto" is the hosts' lowest level, or None (the build's own default) without hosts.
    """
    filled = dict(flags)
    if filled.get("cpu") == "auto":
        filled["cpu"] = targets.cpu if targets else None
    if targets is not None:
        filled["accelerator"] = targets.accelerator
        filled["arch"] = filled.get("arch") or ";".join(targets.archs) or None
    return filled
