"""Whether a build, and the wheel it made, fits the hosts it is for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from packaging.version import Version

from provision.compat import arch_covers, cpu_runs
from provision.errors import ConfigError
from provision.findings import Finding, Report
from provision.hosts.facts import HostFacts, Python, parse_version
from provision.hosts.targets import Target, Targets, misfit
from provision.wheel.manifest import WheelManifest

#: What builds: the oldest Python of locks/controller.lock and locks/build.lock.
MIN_PYTHON = Version("3.11")
#: The first glibc whose libc holds pthread_*, sem_* and shm_*: code that is linked against it asks
#: for them by this version. https://sourceware.org/glibc/wiki/Release/2.34
THREADS_IN_LIBC = Version("2.34")
#: The first libstdc++ with std::condition_variable::wait under its new version (gcc 12).
#: https://gcc.gnu.org/onlinedocs/libstdc++/manual/abi.html
NEW_WAIT = Version("3.4.30")
#: Ops that call one of those, and so need that version when they are built on it or later.
NEED_THREADS = frozenset({"cpu_adam", "shm_comm"})
NEED_WAIT = frozenset({"cpu_adam"})


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a build is about to make: after parsing, so with every name resolved."""

    accelerator: str
    archs: tuple[str, ...]
    cpu: str
    python_tag: str
    ops: tuple[str, ...]


def compare_wanted(targets: Targets, wanted: Wanted, builder: HostFacts) -> Report:
    """Whether what is about to be built fits every host; ``builder`` is the machine that builds.

    A newer glibc on the builder is an error where it is known to show in the wheel. Otherwise (or
    where it could not be read) the wheel's own floor decides, once there is one: compare_built.
    """
    findings: list[Finding] = []
    for host in targets.hosts:
        findings += _compare_wanted(host, wanted)
    oldest = targets.oldest
    for name, ops, barrier in (
        ("glibc", NEED_THREADS, THREADS_IN_LIBC),
        ("glibcxx", NEED_WAIT, NEW_WAIT),
    ):
        built_on, found = parse_version(builder[name].value), getattr(oldest, name)
        needing = ", ".join(sorted(ops.intersection(wanted.ops)))
        if needing and built_on is not None and found < barrier <= built_on:
            expected = (
                f"{barrier} or later: {needing} built on {builder.host} ({built_on}) needs it"
            )
            findings.append(_floor(oldest.host, name, found, expected))
    return Report(findings=tuple(findings))


def _compare_wanted(host: Target, wanted: Wanted) -> list[Finding]:
    findings = []
    if not cpu_runs(host.cpu, wanted.cpu):
        remedy = f"--cpu {host.cpu} or auto, or leave the host out"
        findings.append(misfit(host.host, "cpu", host.cpu, f"{wanted.cpu} (--cpu)", remedy))
    if wanted.accelerator == "cuda":
        for name, capability in host.gpus:
            if not arch_covers(wanted.archs, capability):
                expected = f"one that --arch '{';'.join(wanted.archs)}' runs on"
                remedy = f"add {capability} to --arch, or leave --arch out: the hosts fill it in"
                found = f"{name} ({capability})"
                findings.append(misfit(host.host, "gpu", found, expected, remedy))
    if wanted.python_tag not in host.pythons:
        found = ", ".join(host.pythons) or "none with venv"
        remedy = "name a Python of the hosts' version with --python, or install it there with venv"
        expected = f"{wanted.python_tag} with venv, which the wheel is for"
        findings.append(misfit(host.host, "python", found, expected, remedy))
    return findings


def compare_built(targets: Targets | None, manifest: WheelManifest) -> Report:
    """Whether a wheel, as built, loads on the oldest of the hosts (None: it is for nobody yet)."""
    if targets is None:
        return Report()
    oldest = targets.oldest
    return Report(
        findings=tuple(
            _floor(oldest.host, name, found, f"{needed} or later, which {manifest.wheel} needs")
            for name, found, needed in (
                ("glibc", oldest.glibc, manifest.glibc),
                ("glibcxx", oldest.glibcxx, manifest.glibcxx),
            )
            # A wheel that names no floor has no module that needs one.
            if needed and found < Version(needed)
        )
    )


def _floor(host: str, name: str, found: Version, expected: str) -> Finding:
    remedy = f"build on the oldest host: invoke build-deepspeed --on {host}"
    return misfit(host, name, found, expected, remedy)


def require_python(targets: Targets | None, builder: HostFacts, asked: str | None = None) -> Python:
    """Of a host's interpreters, the first that can build and that every target has as well.

    ``asked`` is a name or path, as in ``--python``: only that one will do.

    Raises:
        ConfigError: there is none, so nothing built on that host fits all the others.
    """
    for python in builder.pythons:
        able = python.venv and Version(python.version) >= MIN_PYTHON
        named = not asked or asked in (python.path, PurePosixPath(python.path).name)
        # With an interpreter named, hosts that lack its version are findings: compare_wanted.
        if able and named and (asked or targets is None or python.tag in targets.pythons):
            return python
    expected = f"{asked + ', ' if asked else ''}Python {MIN_PYTHON} or later with venv"
    if targets is not None and not asked:
        everywhere = ", ".join(targets.pythons) or "no version is on all of them"
        expected += f", of a version that every host has ({everywhere})"
    versions = ", ".join(dict.fromkeys(p.version for p in builder.pythons)) or "none"
    raise ConfigError(
        f"--on {builder.host}: python",
        found=builder["pythons"] if builder["pythons"].unknown else versions,
        expected=expected,
        remedy="install one there, with its venv and dev packages (Debian's names)",
    )
