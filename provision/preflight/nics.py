"""Which network interface each host's part of a run uses, and its address there. Pure.

gloo and NCCL take the interface that they are told (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME); left
alone, gloo takes the address of the host's own name, often 127.0.1.1, and NCCL the first interface
that is up, often docker0. What the kernel's routing table says about the peers decides here.

https://docs.pytorch.org/docs/stable/distributed.html#common-environment-variables
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from provision.findings import UNREAD, Finding, Judge, Level
from provision.hosts.facts import HostFacts

#: Bridges and links of containers and virtual machines, by the names their makers give them. By
#: name rather than kind: within a container, eth0 itself is of kind veth.
_CONTAINER_LINK = re.compile(r"docker\d|br-[0-9a-f]{12}$|virbr\d|lxcbr\d|cni\d|podman\d|veth|cali")


@dataclass(frozen=True, kw_only=True)
class Way:
    """How one host reaches its peers. None is what isn't known; ``problems`` say why."""

    interface: str | None
    address: str | None
    problems: tuple[Finding, ...] = ()


def network_of(facts: HostFacts) -> tuple[object, object]:
    """What tells network namespaces apart: equal for names that reach one of them."""
    return facts["boot_id"].value, (facts["namespaces"].value or {}).get("net")


def is_loopback(address: object) -> bool:
    """Whether an address is this host's own, wherever it is used."""
    try:
        return ipaddress.ip_address(str(address).split("%", 1)[0]).is_loopback
    except ValueError:
        return False


def interface_environ(name: str) -> dict[str, str]:
    """The variables by which gloo and NCCL take this interface, and no other.

    NCCL takes every interface that begins with the name, eth10 and eth1.100 for eth1, unless = is
    before it: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-socket-ifname
    """
    return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}"}


def choose_ways(facts: Mapping[str, HostFacts], addresses: Mapping[str, str]) -> dict[str, Way]:
    """Each host's way to all the others. ``addresses``: what each is reached at over SSH."""
    ways = {host: _way(host, facts, addresses) for host in addresses}
    count = Counter(way.address for way in ways.values())
    chosen = dict(ways)
    for host, way in ways.items():
        if way.address is None or count[way.address] == 1 or is_loopback(way.address):
            continue
        others = [
            other
            for other, its in ways.items()
            if its.address == way.address and network_of(facts[other]) != network_of(facts[host])
        ]
        if others:
            problem = Judge(host=host)(
                "interface",
                Level.ERROR,
                f"{way.address} ({way.interface}), as on {', '.join(others)}",
                "an address of its own",
                "give each host an address that the others can tell from its own",
            )
            chosen[host] = Way(interface=None, address=None, problems=(*way.problems, problem))
    return chosen


def _way(host: str, facts: Mapping[str, HostFacts], addresses: Mapping[str, str]) -> Way:
    judge, here = Judge(host=host), network_of(facts[host])
    if facts[host]["routes"].unknown:
        why = facts[host]["routes"]
        return Way(
            interface=None,
            address=None,
            problems=(judge("interface", Level.UNKNOWN, why, "a route to each host", UNREAD),),
        )
    others = [other for other in addresses if other != host]
    # Names of one network namespace reach each other over loopback: fine if there are no others.
    far = [other for other in others if network_of(facts[other]) != here]
    found: Counter[tuple[str, str]] = Counter()
    problems: list[Finding] = []
    for other in far or others or [host]:
        route = facts[host].route(addresses[other])
        problem = _problem(judge, other, addresses[other], route, apart=other in far)
        if problem is None:
            found[route["interface"], route["source"]] += 1
        elif problem not in problems:
            problems.append(problem)
    if not found:
        return Way(interface=None, address=None, problems=tuple(problems))
    (interface, address), _ = found.most_common(1)[0]
    if len({interface for interface, _ in found}) > 1:
        names = ", ".join(f"{name} ({count} hosts)" for (name, _), count in found.most_common())
        remedy = f"{interface} is taken: give the hosts addresses in one network"
        problems.append(judge("interface", Level.WARN, names, "one towards all hosts", remedy))
    return Way(interface=interface, address=address, problems=tuple(problems))


def _problem(
    judge: Judge, other: str, asked: str, route: Mapping[str, object], *, apart: bool
) -> Finding | None:
    """What is wrong with one host's way to another, if anything."""
    expected = f"a way to {other} ({asked})"
    if "interface" not in route:
        found = route.get("error") or "no answer"
        return judge("interface", Level.ERROR, found, expected, f"ip route get {asked}, there")
    interface = route["interface"]
    if apart and is_loopback(route.get("address")):
        found = f"{asked} is {route['address']} here: this host itself"
        remedy = f"remove that line from /etc/hosts of {judge.host}"
        if is_loopback(asked):  # a tunnel, say: good for SSH alone
            remedy = "reach the hosts at addresses of their own (HostName in ~/.ssh/config)"
        return judge("interface", Level.ERROR, found, expected, remedy)
    if interface is None:
        found = f"unknown ({route.get('interface_unknown') or 'no interface has that address'})"
        return judge("interface", Level.UNKNOWN, found, expected, "install iproute2 there")
    if _CONTAINER_LINK.match(str(interface)):
        found = f"{interface}, a link of containers or virtual machines"
        remedy = f"correct the route: ip route get {asked}, there"
        return judge("interface", Level.ERROR, found, expected, remedy)
    return None


def judge_way(host: str, way: Way) -> list[Finding]:
    """Findings about one host's way."""
    if way.problems:
        return list(way.problems)
    found = f"{way.interface} ({way.address})"
    return [Judge(host=host)("interface", Level.OK, found, "one towards all hosts")]
