"""Judge the heartbeat's way: without its UDP port, healthy hosts are taken for lost. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from provision.findings import Finding, Judge, Level
from provision.hosts.facts import HostFacts
from provision.preflight.blame import Blame, Pair, blame
from provision.preflight.firewall import mending
from provision.preflight.mesh import Mesh, MeshWanted

SUBJECT = "heartbeat port"
_EXPECTED = "datagrams to arrive: the supervisors of a run watch one another there"


def judge_beats(
    wanted: MeshWanted, mesh: Mesh, facts: Mapping[str, HostFacts]
) -> tuple[Finding, ...]:
    """Which hosts do not hear which, and which can't have their port at all."""
    listening = {host: dial["heard"] for host, dial in mesh.dials.items() if _listens(mesh, host)}
    findings = [
        Judge(host=host)(
            SUBJECT, Level.ERROR, f"UDP {hello['udp_error']}", "that UDP port free",
            "stop it, or choose another with --master-port",
        )
        for host, hello in mesh.hellos.items()
        if "udp_error" in hello
    ]  # fmt: skip
    bad: set[Pair] = {
        (sender, host)
        for host, heard in listening.items()
        for sender in listening
        if sender != host and sender not in heard
    }
    findings += [_blocked(guilt, wanted, facts) for guilt in blame(bad, wanted.hosts)]
    guilty = {host for pair in bad for host in pair}
    for host, heard in listening.items():
        if host not in guilty and len(listening) > 1:
            found = f"UDP {wanted.heartbeats[host]}, {len(heard)} hosts heard"
            findings.append(Judge(host=host)(SUBJECT, Level.OK, found, _EXPECTED))
    return tuple(findings)


def _listens(mesh: Mesh, host: str) -> bool:
    return bool(mesh.hellos[host].get("udp"))


def _blocked(guilt: Blame, wanted: MeshWanted, facts: Mapping[str, HostFacts]) -> Finding:
    """One host, and those that it does not hear or that don't hear it; how to let them."""
    towards = guilt.way == "to"
    listener, sources = guilt.host, guilt.peers
    if towards:
        listener, sources = guilt.peers[0], (guilt.host,)
    port = str(wanted.heartbeats[listener])
    remedy = mending(listener, {s: wanted.addresses[s] for s in sources}, port, facts, "udp")
    if towards and len(guilt.peers) > 1:
        remedy = f"does {guilt.host} filter what it sends? else {remedy}"
    found = f"UDP {port} {guilt.way} {', '.join(guilt.peers)} blocked"
    return Judge(host=guilt.host)(SUBJECT, Level.ERROR, found, _EXPECTED, remedy)
