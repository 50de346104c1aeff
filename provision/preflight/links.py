"""Judge the mesh: which ports, packets and links between hosts would hang or slow a run. Pure.

A fault that touches several pairs is told once, of the host that all of them share (blame.py).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from provision.findings import Finding, Judge, Level
from provision.hosts.facts import HostFacts
from provision.preflight.blame import Blame, Pair, blame
from provision.preflight.firewall import mending
from provision.preflight.mesh import Mesh, MeshWanted
from provision.preflight.nics import is_loopback

#: Share of packets sent again that is a fault. TCP's rate falls with the square root of the loss:
#: at 1 % and 1 ms to and fro, one connection comes to 140 Mbit/s; at 5 % to 60, with a stop of
#: 0.2 s or more in every twenty packets. https://doi.org/10.1145/263932.264023 (Mathis et al.)
_LOSS_WARN, _LOSS_ERROR = 0.01, 0.05
#: Fewer lost packets than this may be one busy moment.
_LOSS_COUNT = 3
#: Share of the usual rate that is slow: 10 Gbit/s among 25 is 0.4, and fine; 1 among 10 is 0.1.
#: Every slow pair was measured six times, and its best counts.
_SLOW_WARN, _SLOW_ERROR = 0.25, 0.11
#: As the system calls it.
REFUSED = os.strerror(errno.ECONNREFUSED)
#: One connection, in Python, fills this much of a fast NIC; nothing is held to more. Beyond it the
#: CPUs decide, of which a busy host has few: 3 beside 44 Gbit/s came of no link.
_ONE_CONNECTION = 10e9 / 8
_AGAIN = "run preflight again; if it repeats, look at load and firewall of"


def judge_mesh(
    wanted: MeshWanted, mesh: Mesh, facts: Mapping[str, HostFacts]
) -> dict[str, list[Finding]]:
    """Findings of every host."""
    findings: dict[str, list[Finding]] = {host: [] for host in wanted.hosts}
    for host, error in mesh.errors.items():
        findings[host].append(Judge(host=host).unanswered("network", error))
    first = wanted.hosts[0]
    busy = mesh.hellos.get(first, {}).get("master_error")
    if busy:
        port, remedy = wanted.master_port, "stop it, or choose another with --master-port"
        found = Judge(host=first)(
            "master port", Level.ERROR, f"{port} {busy}", f"{port} free", remedy
        )
        findings[first].append(found)
        return findings
    for host in mesh.dials:
        name = _name(host, wanted, mesh)
        findings[host] += name
        if not any(finding.fails for finding in name):  # or it would be told twice
            findings[host] += _master(host, wanted, mesh, facts)
    for finding in (*_ports(wanted, mesh, facts), *_packets(mesh, facts), *_loss(mesh)):
        findings[finding.host].append(finding)
    for finding in _rates(mesh, facts):
        findings[finding.host].append(finding)
    return findings


def _hosts(names: Iterable[str]) -> str:
    return ", ".join(names)


def _name(host: str, wanted: MeshWanted, mesh: Mesh) -> list[Finding]:
    """What the master's name means on this host, against what it means on the others."""
    judge, master = Judge(host=host), mesh.dials[host].get("master", {})
    subject, name = "master address", wanted.master_addr
    remedy = f"correct /etc/hosts there, or give --master-addr {wanted.addresses[wanted.hosts[0]]}"
    if "error" in master:
        found = f"{name} does not resolve here ({master['error']})"
        return [judge(subject, Level.ERROR, found, f"an address of {wanted.hosts[0]}", remedy)]
    here = tuple(master.get("addresses", ()))
    network = mesh.hellos[host]["network"]
    at_node0 = network == mesh.hellos.get(wanted.hosts[0], {}).get("network")
    if here and all(is_loopback(each) for each in here):
        # On node 0 itself it is right: torchrun's store listens on every address.
        if at_node0:
            return []
        found = f"{name} is {_hosts(here)} here: this host itself"
        return [judge(subject, Level.ERROR, found, f"an address of {wanted.hosts[0]}", remedy)]
    elsewhere = [
        tuple(dial["master"].get("addresses", ()))
        for other, dial in mesh.dials.items()
        if other not in (host, wanted.hosts[0])
    ]
    usual = max(elsewhere, key=elsewhere.count, default=here)
    alone = elsewhere.count(usual) > elsewhere.count(here) and not at_node0
    if usual and here != usual and alone:
        level = Level.WARN if isinstance(master["reached"], float) else Level.ERROR
        expected = f"{_hosts(usual)}, as on other hosts"
        return [judge(subject, level, f"{name} is {_hosts(here)} here", expected, remedy)]
    return []


def _master(
    host: str, wanted: MeshWanted, mesh: Mesh, facts: Mapping[str, HostFacts]
) -> list[Finding]:
    judge, port, first = Judge(host=host), wanted.master_port, wanted.hosts[0]
    master = mesh.dials[host].get("master", {})
    reached, expected = master.get("reached"), f"{wanted.master_addr}:{port} reached"
    if isinstance(reached, float):
        return [judge("master port", Level.OK, f"reached in {reached * 1000:.1f} ms", expected)]
    level = Level.ERROR if reached else Level.UNKNOWN
    source = {host: wanted.addresses[host]}
    remedy = mending(first, source, str(port), facts)
    if reached == REFUSED:
        # It is listened on, so who refuses is another machine, or a firewall that says so.
        where = _hosts(master.get("addresses", ()))
        remedy = f"{where} is not {first}, or a firewall rejects: in that case {remedy}"
    return [judge("master port", level, reached or "no answer", expected, remedy)]


def _ports(wanted: MeshWanted, mesh: Mesh, facts: Mapping[str, HostFacts]) -> list[Finding]:
    """Ephemeral ports: all pairs at once, because a firewall shows in many of them."""
    bad: dict[Pair, tuple[int, int, str]] = {}
    for host, dial in mesh.dials.items():
        for peer, answer in dial["peers"].items():
            failed = [str(each) for each in answer["ports"].values() if isinstance(each, str)]
            if failed and peer in mesh.dials:
                bad[host, peer] = len(failed), len(answer["ports"]), failed[0]
    findings = []
    for guilt in blame(bad, wanted.hosts):
        pair = next(p for p in (guilt.pairs[0], guilt.pairs[0][::-1]) if p in bad)
        count, of, why = bad[pair]
        # What must be opened: the range of the host that listens.
        listener = pair[1] if guilt.way == "to" else guilt.host
        low, high = mesh.hellos[listener]["range"]
        sources = guilt.peers if listener == guilt.host else (guilt.host,)
        found = (
            f"TCP {low}-{high} {guilt.way} {_hosts(guilt.peers)} blocked "
            f"({count} of {of} sampled ports: {why})"
        )
        addresses = {source: wanted.addresses[source] for source in sources}
        remedy = mending(listener, addresses, f"{low}-{high}", facts)
        if guilt.way == "to" and len(guilt.peers) > 1:
            remedy = f"does {guilt.host} filter what it sends? else {remedy}"
        elif guilt.way == "with":
            remedy += "; and let replies to its own dials in: ct state established,related accept"
        expected = "every port of it to answer: gloo and NCCL listen there"
        findings.append(Judge(host=guilt.host)("ports", Level.ERROR, found, expected, remedy))
    guilty = {host for pair in bad for host in pair}
    for host in set(mesh.dials) - guilty:
        counts = [len(answer["ports"]) for answer in mesh.dials[host]["peers"].values()]
        text = f"{sum(counts)} sampled of {len(counts)} hosts, all reached"
        findings.append(Judge(host=host)("ports", Level.OK, text, "ephemeral ports to answer"))
    return findings


def _packets(mesh: Mesh, facts: Mapping[str, HostFacts]) -> list[Finding]:
    """Full packets that vanish while small ones pass, and connections on which nothing passes."""
    bad: dict[Pair, Mapping[str, Any]] = {}
    findings = []
    for host, dial in mesh.dials.items():
        for peer, answer in dial["peers"].items():
            packets, exchange = answer.get("packets", {}), answer.get("exchange", {})
            if "error" in packets or "error" in exchange:
                why = packets.get("error") or exchange.get("error")
                found, remedy = f"{peer}: connected, but then {why}", f"{_AGAIN} {host}, {peer}"
                judge = Judge(host=host)
                findings.append(judge("packets", Level.ERROR, found, "answers", remedy))
            # What is told by the sender's own try, and by its peer's, is one direction.
            if packets.get("up", packets.get("of")) != packets.get("of"):
                bad[host, peer] = packets
            if packets.get("down", packets.get("of")) != packets.get("of"):
                bad[peer, host] = packets
    for guilt in blame(bad, tuple(mesh.dials)):
        pair = next(p for p in (guilt.pairs[0], guilt.pairs[0][::-1]) if p in bad)
        findings.append(_black_hole(guilt, bad[pair], facts[guilt.host]))
    guilty = {host for pair in bad for host in pair} | {f.host for f in findings}
    for host in set(mesh.dials) - guilty:
        sizes = {a["packets"]["mtu"] for a in mesh.dials[host]["peers"].values() if "packets" in a}
        if sizes:
            text = f"{_hosts(str(each) for each in sorted(sizes, key=str))} bytes, both ways"
            findings.append(Judge(host=host)("packets", Level.OK, text, "full packets to pass"))
    return findings


def _black_hole(guilt: Blame, packets: Mapping[str, Any], facts: HostFacts) -> Finding:
    mtu, passes = packets.get("mtu"), packets.get("passes")
    partly = packets["up"] and packets["down"]
    what = "stall" if partly else "vanish: an MTU black hole"
    found = f"small packets pass, {mtu}-byte ones {guilt.way} {_hosts(guilt.peers)} {what}"
    nic = next((str(r.get("interface")) for r in (facts["routes"].value or {}).values()), "NIC")
    lower = (
        f"those of {passes} bytes pass: ip link set dev {nic} mtu {passes} on every host"
        if passes
        else "lower the MTU of every host's NIC"
    )
    remedy = f"{lower}; or let ICMP 'fragmentation needed' (IPv6: 'packet too big') pass on the way"
    return Judge(host=guilt.host)("packets", Level.ERROR, found, "full packets to pass", remedy)


def _counts(exchange: Mapping[str, Any]) -> tuple[int, int] | None:
    """(sent again, sent) of both ends of a connection; None where a kernel has no count."""
    ends = exchange.get("tcp") or [None]
    if not all(ends):
        return None
    return sum(end[0] for end in ends), sum(end[1] for end in ends)


def _loss(mesh: Mesh) -> list[Finding]:
    """Packets sent again on connections that were never congested."""
    totals: dict[Pair, list[int]] = {}
    for host, dial in mesh.dials.items():
        for peer, answer in dial["peers"].items():
            counts = _counts(answer.get("exchange", {}))
            if counts is not None:
                a, b = sorted((host, peer))
                total = totals.setdefault((a, b), [0, 0])
                total[0], total[1] = total[0] + counts[0], total[1] + counts[1]
    bad = {
        pair: again / sent
        for pair, (again, sent) in totals.items()
        if again >= _LOSS_COUNT and again / sent >= _LOSS_WARN
    }
    findings = []
    for guilt in blame(bad, tuple(mesh.dials)):
        shares = [bad[p] for p in ((guilt.host, o) for o in guilt.peers) if p in bad]
        shares += [bad[p] for p in ((o, guilt.host) for o in guilt.peers) if p in bad]
        level = Level.ERROR if max(shares) >= _LOSS_ERROR else Level.WARN
        found = f"{max(shares):.0%} of packets with {_hosts(guilt.peers)} sent again"
        expected = f"below {_LOSS_WARN:.0%}: each costs 0.2 s or more"
        remedy = "look at its cable, switch port and errors: ip -s link show, there"
        findings.append(Judge(host=guilt.host)("packet loss", level, found, expected, remedy))
    guilty = {host for pair in bad for host in pair}
    for host in set(mesh.dials) - guilty:
        mine = [total for pair, total in totals.items() if host in pair]
        if mine:
            text = f"{sum(t[0] for t in mine)} of {sum(t[1] for t in mine):,} packets sent again"
            expected = f"below {_LOSS_WARN:.0%}"
            findings.append(Judge(host=host)("packet loss", Level.OK, text, expected))
    return findings


def rate_text(rate: float) -> str:
    """Bytes a second as a person knows links: "9.4 Gbit/s"."""
    return f"{rate * 8 / 1e9:.1f} Gbit/s" if rate >= 1e9 / 8 else f"{rate * 8 / 1e6:.0f} Mbit/s"


def slowness(rate: float, usual: float) -> Level:
    """How bad a link's rate is beside the usual one, bytes/s."""
    wanted = min(usual, _ONE_CONNECTION)
    if rate < wanted * _SLOW_ERROR:
        return Level.ERROR
    return Level.WARN if rate < wanted * _SLOW_WARN else Level.OK


def _rates(mesh: Mesh, facts: Mapping[str, HostFacts]) -> list[Finding]:
    """Links far slower than the usual one, or than their own NIC."""
    if not mesh.rates:
        return []
    rates = sorted(mesh.rates.values())
    usual = rates[len(rates) // 2]
    bad = {p: rate for p, rate in mesh.rates.items() if slowness(rate, usual) is not Level.OK}
    findings = []
    expected = f"about {rate_text(usual)}, as between other hosts: all wait for the slowest"
    remedy = "look at its link: ethtool (speed, duplex), cable, switch port, tc qdisc show, there"
    for guilt in blame(bad, tuple(mesh.dials)):
        those = [
            bad[p] for o in guilt.peers for p in ((guilt.host, o), (o, guilt.host)) if p in bad
        ]
        level = slowness(min(those), usual)
        found = f"{rate_text(min(those))} {guilt.way} {_hosts(guilt.peers)}"
        findings.append(Judge(host=guilt.host)("bandwidth", level, found, expected, remedy))
    guilty = {host for pair in bad for host in pair}
    for host in set(mesh.dials) - guilty:
        mine = [rate for pair, rate in mesh.rates.items() if host in pair]
        if mine:
            findings.append(_own_rate(host, median(mine), facts[host], remedy))
    return findings


def _own_rate(host: str, rate: float, facts: HostFacts, remedy: str) -> Finding:
    """A host whose links are all alike, held to its own NIC: in a fleet of two, both are slow."""
    used = {route.get("interface") for route in (facts["routes"].value or {}).values()}
    speeds = [
        float(nic["speed"]) * 1e6 / 8
        for nic in facts["interfaces"].value or ()
        if nic["name"] in used and nic.get("kind") == "physical" and nic.get("speed")
    ]
    limit = min(*speeds, _ONE_CONNECTION) if speeds else 0.0
    level = Level.WARN if rate < limit * _SLOW_WARN else Level.OK
    expected = f"about {rate_text(limit)}, as its NIC says" if limit else "a rate like the others'"
    return Judge(host=host)("bandwidth", level, rate_text(rate), expected, remedy)
