"""Environments over the packages of each host's own Python: a user's venv or conda environment.

On a host it is a virtual environment of ours that holds the wheel, and that then imports from where
that Python does. Nothing of the user's is written, so all that is done to environments
(switch, rollback, clean, undeploy) is done to this one in the same way.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from packaging.metadata import parse_email
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from provision.deploy.plan import IMPORTS
from provision.deploy.resolve import Given
from provision.deploy.spec import platform_for
from provision.errors import ConfigError, ProvisionError
from provision.findings import Finding, Judge, Level, Report
from provision.fleet import Fleet
from provision.hosts.facts import Fact, HostFacts
from provision.inventory import Inventory
from provision.session import Remote, Say
from provision.wheel.manifest import WheelManifest

#: The fact that a host whose own Python was asked has beside the probe's.
EXISTING = "existing"
_SECONDS = 90.0


def pythons_of(inventory: Inventory, default: str | None) -> dict[str, str]:
    """Every host's own Python: ``python=`` of its line, else ``--env-python``.

    Raises ConfigError where neither names one, or a path depends on some current folder.
    """
    found: dict[str, str] = {}
    for host in inventory:
        python = host.python or default
        if python is None or not python.startswith(("/", "~/")):
            raise ConfigError(
                f"{host.label}: --env-python",
                found=python or "none",
                expected="the path of a Python on the hosts, from / or ~/",
                remedy="--env-python PATH, or python=PATH on the host's line of the hosts file",
            )
        found[host.label] = python
    return found


def gather_existing(
    fleet: Fleet, pythons: Mapping[str, str], hosts: Sequence[str], say: Say
) -> dict[str, dict[str, Any] | ProvisionError]:
    """What each of these hosts' own Python is: the answers of onhost/existing.py, or its error."""

    def look(remote: Remote) -> dict[str, Any]:
        asked = json.dumps({"python": pythons[remote.label]})
        return dict(remote.ask("existing", [asked], timeout=_SECONDS))

    return dict(fleet.fan_out(look, hosts, say=say))


def with_existing(facts: HostFacts, look: Mapping[str, Any]) -> HostFacts:
    """A host's facts, with its own Python as the only one there is; as they were if it has none."""
    if "error" in look:
        return facts
    python = {"path": look["path"], "version": look["version"], "venv": True}
    changed = {"pythons": Fact(value=[python]), EXISTING: Fact(value=dict(look))}
    return HostFacts(host=facts.host, facts={**facts.facts, **changed})


def compare_existing(
    manifest: WheelManifest, given: Sequence[Given], looks: Mapping[str, Mapping[str, Any]]
) -> Report:
    """Whether each host's own Python fits the wheels: torch to the build, ABI, what they require.

    Its release is parity's to judge (hosts/parity.py).
    """
    findings: list[Finding] = []
    for host, look in looks.items():
        if "error" in look:
            found, expected = str(look["error"]), f"a Python with torch {manifest.torch}"
            remedy = "correct --env-python, or python= in the hosts file"
            findings.append(Judge(host=host).error(EXISTING, found, expected, remedy))
            continue
        findings += [_abi(host, manifest, look), _torch(host, manifest, look)]
        findings += [_required(host, manifest, given, look), *_recipes(host, look)]
    return Report(findings=tuple(findings))


def _abi(host: str, manifest: WheelManifest, look: Mapping[str, Any]) -> Finding:
    """CPython's ABI: a free-threaded ("t") or debug ("d") build loads no wheel of the usual one."""
    found = look["implementation"] + (f", ABI {look['abi']}" if look["abi"] else "")
    expected, remedy = f"cpython ({manifest.python_tag})", "use a Python of the usual build there"
    return Judge(host=host).judged("python.abi", found == "cpython", found, expected, remedy)


def _torch(host: str, manifest: WheelManifest, look: Mapping[str, Any]) -> Finding:
    """The very build of torch: its C++ interface is no other release's, nor its CUDA another's."""
    wanted = (manifest.torch, manifest.torch_cuda)
    good = (look["torch"], look["torch_cuda"]) == wanted
    found, expected = (
        f"{torch or 'no torch'}{f' for CUDA {cuda}' if cuda else ''}"
        for torch, cuda in ((look["torch"], look["torch_cuda"]), wanted)
    )
    remedy = f"install that torch into {look['path']}, or build the wheel for this one"
    return Judge(host=host).judged("torch", good, found, f"{expected}, as the wheel", remedy)


def _required(
    host: str, manifest: WheelManifest, given: Sequence[Given], look: Mapping[str, Any]
) -> Finding:
    """What the wheels require of other packages: they are installed without them."""
    markers = platform_for(manifest).markers
    own = {one.name for one in given}
    lacking = []
    for requirement in _requirements(given):
        if requirement.marker is not None and not requirement.marker.evaluate(markers):
            continue
        name = canonicalize_name(requirement.name)
        version = look["versions"].get(name)
        if name not in own and (
            version is None or not requirement.specifier.contains(version, prereleases=True)
        ):
            lacking.append((f"{requirement.name}{requirement.specifier}", version))
    found = ", ".join(f"{name} ({version or 'none'})" for name, version in lacking) or "all there"
    names = " ".join(shlex.quote(name) for name, _ in lacking)
    remedy = f"there: {shlex.quote(look['path'])} -m pip install {names}"
    expected = "what the wheels require"
    return Judge(host=host).judged("packages", not lacking, found, expected, remedy)


def _requirements(given: Sequence[Given]) -> Iterable[Requirement]:
    for one in given:
        raw, _ = parse_email(one.metadata)
        yield from map(Requirement, raw.get("requires_dist", ()))


def _recipes(host: str, look: Mapping[str, Any]) -> list[Finding]:
    """What `train` with a recipe imports; a script of the user's own (--script) may do without."""
    names = dict.fromkeys(name.partition(".")[0] for name in IMPORTS)
    lacking = [name for name in names if name not in look["versions"]]
    if not lacking:
        return []
    found = f"no {', '.join(lacking)}"
    remedy = f"there: {shlex.quote(look['path'])} -m pip install {' '.join(lacking)}"
    expected = "what recipes import (train --script needs none of it)"
    return [Judge(host=host)("recipes", Level.WARN, found, expected, remedy)]
