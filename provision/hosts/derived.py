"""Facts made of facts: what parity and the drift lock compare, where a fact alone says too much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from packaging.version import Version

from provision.hosts.facts import Fact, HostFacts

Read = Callable[[HostFacts], Fact]


def _of(fact: Fact, value: Any) -> Fact:
    """Something derived from a fact: unknown with it, absent where there is none of it."""
    return Fact(unknown=fact.unknown) if fact.unknown else Fact(value=value)


def release(text: str) -> str:
    """The first two numbers of a version: "6.1" of "6.1.0-18-amd64"."""
    return ".".join(text.split(".")[:2])


def branch(text: str) -> str:
    """The first number of a version: "580" of "580.65.06"."""
    return text.partition(".")[0]


def plain(name: str) -> Read:
    """The fact of that name, as it is."""
    return lambda facts: facts[name]


def gibibytes(name: str, key: str) -> Read:
    """A size in GiB, to one decimal."""

    def read(facts: HostFacts) -> Fact:
        size = (facts[name].value or {}).get(key)
        return _of(facts[name], None if size is None else round(size / (1 << 30), 1))

    return read


def environment(key: str) -> Read:
    """What deploy recorded of the environment in use."""

    def read(facts: HostFacts) -> Fact:
        return _of(facts["environment"], facts.environment.get(key))

    return read


def wheel(facts: HostFacts) -> Fact:
    """The wheel in the environment in use, by the first 12 digits of its sha256."""
    return _of(facts["environment"], str(facts.environment.get("wheel_sha256") or "")[:12] or None)


def environment_now(key: str) -> Read:
    """What the environment's folder holds now, which may not be what deploy proved."""

    def read(facts: HostFacts) -> Fact:
        if facts["environment"].absent:
            return Fact()
        return _of(facts["environment.now"], (facts["environment.now"].value or {}).get(key))

    return read


def per_gpu(*keys: str, join: str = " ") -> Read:
    """The kinds of GPU there are, by these keys; one whose driver can't say is not told apart."""

    def read(facts: HostFacts) -> Fact:
        unread = dict(facts["gpu.unread"].value or {})
        if reason := next((str(unread[key]) for key in keys if key in unread), ""):
            return Fact(unknown=reason)
        kinds = {join.join(str(gpu.get(key)) for key in keys if gpu.get(key)) for gpu in facts.gpus}
        return _of(facts["gpus"], ", ".join(sorted(kinds - {""})) or None)

    return read


def gpu_count(facts: HostFacts) -> Fact:
    """How many GPUs there are; none is 0, not absent."""
    return _of(facts["gpus"], len(facts.gpus))


def nvlinks(facts: HostFacts) -> Fact:
    """NVLinks that are up, of those there are."""
    links = [link for each in (facts["gpu.nvlink"].value or {}).values() for link in each]
    up = sum("inactive" not in str(link) for link in links)
    return _of(facts["gpu.nvlink"], f"{up} of {len(links)} links up" if links else None)


def _interfaces(facts: HostFacts) -> tuple[dict[str, Any], ...]:
    """The ways to the peers that were asked for; to itself only where there is no other."""
    routes = [dict(r) for r in (facts["routes"].value or {}).values() if "error" not in r]
    # A host reaches its own address over the loopback device, whatever the interface's name.
    others = [route for route in routes if route.get("address") != route.get("source")]
    return tuple(others or routes)


def mtu(facts: HostFacts) -> Fact:
    """Packet size on the way to the peers."""
    sizes = {int(route["mtu"]) for route in _interfaces(facts) if route.get("mtu")}
    return _of(facts["routes"], ", ".join(map(str, sorted(sizes))) or None)


def speed(facts: HostFacts) -> Fact:
    """Speed of the interfaces towards the peers."""
    names = {route.get("interface") for route in _interfaces(facts)}
    nics = [nic for nic in facts["interfaces"].value or () if nic["name"] in names]
    speeds = {int(nic["speed"]) for nic in nics if nic.get("speed")}
    return _of(facts["interfaces"], ", ".join(f"{s} Mbit/s" for s in sorted(speeds)) or None)


def infiniband(facts: HostFacts) -> Fact:
    """InfiniBand and RoCE ports that are up."""
    ports = [port for port in facts["infiniband"].value or () if port.get("state") == "ACTIVE"]
    kinds = sorted({f"{port.get('link')} {port.get('rate')}" for port in ports})
    return _of(facts["infiniband"], f"{len(ports)} x {', '.join(kinds)}" if ports else None)


def python_versions(facts: HostFacts) -> Fact:
    """Releases of Python that can make an environment."""
    found = {Version(python.version).release[:2] for python in facts.pythons if python.venv}
    return _of(facts["pythons"], ", ".join(f"{a}.{b}" for a, b in sorted(found)) or None)
