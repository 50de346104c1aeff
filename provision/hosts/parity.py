"""Parity: do the hosts fit the wheel, and each other? Pure.

Against the wheel a misfit is an error, because the run would fail there. Among the hosts the
majority is named and the odd ones out are shown, as hard as the subject deserves: a different
kernel is a note, a different driver a warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from provision.build.manifest import WheelManifest
from provision.compat import arch_covers, cpu_runs, driver_minimum
from provision.findings import Finding, Level, Report
from provision.hosts.facts import Fact, HostFacts, parse_version


@dataclass(frozen=True, kw_only=True)
class Among:
    """A fact that hosts are held against each other for, and how bad a difference is."""

    fact: str
    level: Level
    why: str


#: Hosts differ in harmless ways; each level says what a difference can do to a run.
AMONG = (
    Among(fact="gpu.driver", level=Level.WARN, why="one driver on all hosts rules out NCCL faults"),
    Among(fact="gpu.names", level=Level.WARN, why="the slowest GPU sets the pace of all"),
    Among(fact="environment.lock", level=Level.WARN, why="run: invoke deploy"),
    Among(fact="toolkit", level=Level.NOTE, why="not used: the wheel holds what was compiled"),
    Among(fact="os", level=Level.NOTE, why="harmless while glibc fits the wheel"),
    Among(fact="glibc", level=Level.NOTE, why="harmless while it fits the wheel"),
    Among(fact="kernel", level=Level.NOTE, why="harmless as a rule"),
    Among(fact="cpu.model", level=Level.NOTE, why="harmless while its level fits the wheel"),
)


def compare(manifest: WheelManifest | None, torch: str, hosts: Mapping[str, HostFacts]) -> Report:
    """Findings of every host against the wheel (if there is one), then among the hosts.

    ``torch`` is the version that the environment pins, e.g. "2.13.0".
    """
    findings: list[Finding] = []
    if manifest is not None:
        for facts in hosts.values():
            findings += compare_wheel(manifest, torch, facts)
    for among in AMONG if len(hosts) > 1 else ():
        findings += _compare_among(among, hosts)
    return Report(findings=tuple(findings))


def compare_wheel(manifest: WheelManifest, torch: str, facts: HostFacts) -> list[Finding]:
    """One host against the wheel: everything that would make it fail there."""
    findings = [_torch(manifest, torch, facts), _python(manifest, facts), _machine(manifest, facts)]
    findings += [
        _at_least(facts, "glibc", manifest.glibc, "use a newer OS, or build on an older one"),
        _at_least(facts, "glibcxx", manifest.glibcxx, "use a newer libstdc++, or an older g++"),
        _cpu(manifest, facts),
    ]
    if manifest.torch_cuda:
        findings += [_driver(manifest.torch_cuda, facts), *_gpus(manifest, facts)]
    return findings


def _finding(
    facts: HostFacts, subject: str, good: bool | None, found: object, expected: str, remedy: str
) -> Finding:
    """A judged fact: ok, error, or (None) unknown."""
    level = {True: Level.OK, False: Level.ERROR, None: Level.UNKNOWN}[good]
    return Finding(
        host=facts.host,
        subject=subject,
        level=level,
        found=str(found),
        expected=expected,
        remedy="" if good else remedy,
    )


def _torch(manifest: WheelManifest, torch: str, facts: HostFacts) -> Finding:
    built, pinned = parse_version(manifest.torch), parse_version(torch)
    good = built is not None and pinned is not None and built.public == pinned.public
    return _finding(
        facts,
        "torch",
        good,
        f"a wheel built for torch {manifest.torch}",
        f"torch {torch}",
        f"rebuild it: invoke build-deepspeed --torch {torch}",
    )


def _python(manifest: WheelManifest, facts: HostFacts) -> Finding:
    tag = manifest.python_tag
    wanted = f"{tag[2]}.{tag[3:]}"
    python = facts.python_for(tag)
    if facts["pythons"].unknown:
        return _finding(facts, "python", None, facts["pythons"], wanted, "see why, and try again")
    if python is None:
        versions = ", ".join(dict.fromkeys(p.version for p in facts.pythons)) or "none"
        remedy = f"install python{wanted} there, or build the wheel with a Python that is there"
        return _finding(facts, "python", False, versions, f"{wanted} (the wheel is {tag})", remedy)
    if not python.venv:
        found = f"{python.version} without venv"
        remedy = f"install python{wanted}-venv there (Debian, Ubuntu)"
        return _finding(facts, "python", False, found, f"{wanted} with venv", remedy)
    return _finding(facts, "python", True, python.version, f"{wanted} with venv", "")


def _machine(manifest: WheelManifest, facts: HostFacts) -> Finding:
    machine = facts["machine"]
    good = None if machine.unknown else manifest.platform.endswith(f"_{machine.value}")
    remedy = "build a wheel on a machine of that kind"
    return _finding(facts, "machine", good, machine, manifest.platform, remedy)


def _at_least(facts: HostFacts, subject: str, floor: str, remedy: str) -> Finding:
    found, wanted = parse_version(facts[subject].value), parse_version(floor)
    good = None if found is None or wanted is None else found >= wanted
    return _finding(facts, subject, good, facts[subject], f"{floor} or later", remedy)


def _cpu(manifest: WheelManifest, facts: HostFacts) -> Finding:
    good = cpu_runs(str(facts["cpu.level"].value), manifest.cpu)
    remedy = f"rebuild for it: invoke build-deepspeed --cpu {facts['cpu.level']}"
    return _finding(facts, "cpu", good, facts["cpu.level"], f"{manifest.cpu} or later", remedy)


def _driver(torch_cuda: str, facts: HostFacts) -> Finding:
    minimum, found = driver_minimum(torch_cuda), parse_version(facts["gpu.driver"].value)
    if facts["gpu.driver"].absent:
        good: bool | None = False
    else:
        good = None if minimum is None or found is None else found >= minimum
    expected = f"{minimum or 'a driver known'} or later (torch CUDA {torch_cuda})"
    remedy = "upgrade the driver, or build against a torch for an older CUDA"
    return _finding(facts, "driver", good, facts["gpu.driver"], expected, remedy)


def _gpus(manifest: WheelManifest, facts: HostFacts) -> list[Finding]:
    expected = f"a GPU that {' '.join(manifest.arch_list)} runs on"
    if not facts.gpus:
        good = None if facts["gpus"].unknown else False
        remedy = "is the driver loaded? (nvidia-smi)"
        return [_finding(facts, "gpu", good, facts["gpus"], expected, remedy)]
    kinds = dict.fromkeys((gpu["name"], gpu["compute_cap"]) for gpu in facts.gpus)
    return [
        _finding(
            facts,
            "gpu",
            arch_covers(manifest.arch_list, capability),
            f"{name} ({capability})",
            expected,
            f"rebuild with {capability} in the list: invoke build-deepspeed --arch …",
        )
        for name, capability in kinds
    ]


def _derived(facts: HostFacts, name: str) -> Fact:
    if name == "gpu.names":
        names = Counter(gpu["name"] for gpu in facts.gpus)
        text = ", ".join(f"{count} x {name}" for name, count in sorted(names.items()))
        return Fact(value=text or None, unknown=facts["gpus"].unknown)
    if name == "environment.lock":
        lock = facts.environment.get("lock")
        return Fact(value=lock, unknown=facts["environment"].unknown)
    return facts[name]


def _compare_among(among: Among, hosts: Mapping[str, HostFacts]) -> list[Finding]:
    found = {host: str(_derived(facts, among.fact)) for host, facts in hosts.items()}
    counts = Counter(found.values()).most_common()
    if len(counts) == 1:
        expected = "the same on all hosts"
        return [_among(among, host, value, expected, same=True) for host, value in found.items()]
    majority = None if counts[0][1] == counts[1][1] else counts[0][0]
    expected = f"{majority}, as {counts[0][1]} of {len(found)} hosts"
    return [
        _among(among, host, value, expected if majority else "one value on all hosts", same=False)
        for host, value in found.items()
        if value != majority
    ]


def _among(among: Among, host: str, value: str, expected: str, *, same: bool) -> Finding:
    return Finding(
        host=host,
        subject=among.fact,
        level=Level.OK if same else among.level,
        found=value,
        expected=expected,
        remedy="" if same else among.why,
    )
