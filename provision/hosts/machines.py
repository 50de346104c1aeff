"""Names that reach one machine, or one home. Pure.

A host given twice would train against itself. A boot's id is one kernel's (proc(5),
random/boot_id): containers on a machine share it, cloned images do not. So it is the home, the
network and the GPUs that tell a host given twice from two containers.
"""

from __future__ import annotations

from collections.abc import Mapping

from provision.findings import Finding, Judge, Level
from provision.hosts.facts import HostFacts

_SUBJECT, _EXPECTED = "same machine", "each machine under one name"
_TWICE = "remove one of the two from the hosts file"


def compare_machines(hosts: Mapping[str, HostFacts], *, gpu: bool = True) -> list[Finding]:
    """Findings for names that reach a machine that another name reaches too.

    ``gpu``: the run is on GPUs, so that sharing one is an error. Nothing is said of hosts that are
    machines of their own.
    """
    if len(hosts) < 2:
        return []
    findings = []
    seen: dict[str, list[HostFacts]] = {}
    for host, facts in hosts.items():
        if not facts["boot_id"].value:
            remedy = "is /proc mounted there?"
            found = f"boot id {facts['boot_id']}"
            findings.append(Judge(host=host).judged(_SUBJECT, None, found, _EXPECTED, remedy))
            continue
        same = seen.setdefault(str(facts["boot_id"].value), [])
        if same:
            findings.append(_judge(facts, same, gpu=gpu))
        same.append(facts)
    return findings


def _judge(facts: HostFacts, same: list[HostFacts], *, gpu: bool) -> Finding:
    """A name whose machine the names ``same`` reach too."""
    judge, home = facts.judge, facts["home.id"]
    twins = [
        other.host
        for other in same
        if other["home.id"].value == home.value and _network(other) == _network(facts)
    ]
    if home.value is None:
        found = f"the machine of {same[0].host}, perhaps its home too: home.id {home}"
        return judge(_SUBJECT, Level.UNKNOWN, found, _EXPECTED, _TWICE)
    if twins:
        return judge.error(_SUBJECT, f"the machine and home of {twins[0]}", _EXPECTED, _TWICE)
    for other in same:
        # Slices of a GPU in MIG mode may well go to different containers.
        theirs = {each["uuid"] for each in other.gpus if each.get("mig") != "Enabled"}
        shared = [str(g["index"]) for g in facts.gpus if g["uuid"] and g["uuid"] in theirs]
        if shared and gpu:
            found = f"GPU {', '.join(shared)} is a GPU of {other.host} too"
            remedy = "give each of them GPUs of its own, or remove one from the hosts file"
            return judge.error(_SUBJECT, found, _EXPECTED, remedy)
    found = f"the machine of {', '.join(other.host for other in same)}, as a container of its own"
    return judge(_SUBJECT, Level.NOTE, found, _EXPECTED, "they share its cores and memory")


def _network(facts: HostFacts) -> object:
    return (facts["namespaces"].value or {}).get("net")


def home_owners(hosts: Mapping[str, HostFacts]) -> dict[str, str]:
    """Each host → the first host that sees the very same home folder: mostly itself.

    What is done to a home is done once, by that one.
    """
    first: dict[object, str] = {}
    return {
        host: first.setdefault(f["home.place"].value or host, host) for host, f in hosts.items()
    }
