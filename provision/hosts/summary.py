"""What hosts are, for a person: equal hosts on one line, in few columns. Pure."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision.errors import ConfigError
from provision.hosts.fact_table import FACTS
from provision.hosts.facts import Fact, HostFacts
from provision.names import fold

#: What a cell says of a fact that could not be read; the reasons are listed below the table.
UNKNOWN = "unknown"
#: How bridges of Docker, libvirt and container networks are called.
_INNER = ("docker", "br-", "virbr", "cni", "lxcbr", "podman")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column. ``facts``: what it is made of; ``read``: a host's text.

    ``measure`` in place of ``read``: a number that differs a little on every host; equal hosts
    are shown with the least and the most of it, in ``unit``. ``always``: even if no host has any.
    """

    name: str
    facts: tuple[str, ...]
    read: Callable[[HostFacts], str] | None = None
    measure: Callable[[HostFacts], float] | None = None
    unit: str = ""
    wide: bool = False
    always: bool = True


def _plain(name: str, fact: str = "", *, wide: bool = False) -> Column:
    fact = fact or name
    read = lambda facts: str(facts[fact])  # noqa: E731 - a closure over one name
    return Column(name=name, facts=(fact,), read=read, wide=wide)


def _gpus(facts: HostFacts) -> str:
    """``8 x NVIDIA H100 80GB HBM3``, one kind after the other."""
    names: dict[str, int] = {}
    for gpu in facts.gpus:
        names[str(gpu["name"])] = names.get(str(gpu["name"]), 0) + 1
    return ", ".join(f"{count} x {name}" for name, count in names.items()) or "-"


def _gpu_use(facts: HostFacts) -> str:
    """How many GPUs somebody computes on."""
    busy = {row["gpu"] for row in facts["gpu.processes"].value or ()}
    return f"{len(busy)} in use" if busy else "-"


def _pythons(facts: HostFacts) -> str:
    return ", ".join(dict.fromkeys(python.version for python in facts.pythons)) or "-"


def _network(facts: HostFacts) -> str:
    """Interfaces with an address, but for those that lead to containers only: speed, MTU."""
    shown = []
    for row in facts["interfaces"].value or ():
        inner = row["kind"] in ("loopback", "tunnel") or row["name"].startswith(_INNER)
        if row["state"] == "up" and row["addresses"] and not inner:
            speed = f" {row['speed'] / 1000:g}G" if row["speed"] else ""
            shown.append(f"{row['name']}{speed} mtu {row['mtu']}")
    return ", ".join(shown) or "-"


def _memory_limit(facts: HostFacts) -> str:
    limit = facts["memory.limit"].value
    return f"{limit['limit'] / 1e9:.0f} GB" if limit else "-"


def _environment(facts: HostFacts) -> str:
    record = facts.environment
    return f"{record['lock']} (torch {record['torch']})" if record else "-"


#: The table, left to right.
COLUMNS = (
    _plain("os"),
    _plain("cores", "cpu.cores"),
    _plain("cpu", "cpu.level"),
    Column(
        name="memory free",
        facts=("memory",),
        measure=lambda facts: float(facts["memory"].value["available"]) / 1e9,
        unit="GB",
    ),
    Column(
        name="of",
        facts=("memory",),
        read=lambda facts: f"{facts['memory'].value['total'] / 1e9:.0f} GB",
    ),
    Column(
        name="disk free",
        facts=("disk",),
        measure=lambda facts: float(facts["disk"].value["free"]) / 1e9,
        unit="GB",
    ),
    Column(name="gpus", facts=("gpus",), read=_gpus),
    Column(name="in use", facts=("gpu.processes",), read=_gpu_use, always=False),
    _plain("driver", "gpu.driver"),
    Column(name="python", facts=("pythons",), read=_pythons),
    _plain("glibc"),
    Column(name="environment", facts=("environment",), read=_environment),
    Column(
        name="clock",
        facts=("clock.offset",),
        measure=lambda facts: float(facts["clock.offset"].value["seconds"]),
        unit="s",
        wide=True,
    ),
    _plain("user", wide=True),
    _plain("kernel", wide=True),
    _plain("machine", wide=True),
    _plain("cpu model", "cpu.model", wide=True),
    Column(
        name="memory limit", facts=("memory.limit",), read=_memory_limit, wide=True, always=False
    ),
    _plain("glibcxx", wide=True),
    _plain("toolkit", wide=True),
    Column(name="network", facts=("interfaces",), read=_network, wide=True),
    _plain("firewall by", "firewall.tool", wide=True),
    _plain("container", wide=True),
)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A table, and why some of its cells are unknown."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    unknown: tuple[str, ...] = ()


def _text(column: Column, facts: HostFacts) -> str:
    """A host's cell, or "" where it is a measure."""
    if any(facts[name].unknown for name in column.facts):
        return UNKNOWN
    return column.read(facts) if column.read else ""


def _measured(column: Column, hosts: Sequence[HostFacts]) -> str:
    """``61-64 GB``: the least and the most among equal hosts."""
    assert column.measure
    found = [column.measure(facts) for facts in hosts]
    digits = 0 if max(abs(number) for number in found) >= 10 else 1
    ends = dict.fromkeys(f"{number:.{digits}f}" for number in (min(found), max(found)))
    return f"{' to '.join(ends)} {column.unit}"


def summarize(hosts: Mapping[str, HostFacts], *, wide: bool = False) -> Summary:
    """Equal hosts on one line."""
    columns = [column for column in COLUMNS if wide or not column.wide]
    groups: dict[tuple[str, ...], list[HostFacts]] = {}
    for facts in hosts.values():
        groups.setdefault(tuple(_text(c, facts) for c in columns), []).append(facts)
    rows = []
    for cells, group in groups.items():
        texts = [
            cell if cell or not column.measure else _measured(column, group)
            for column, cell in zip(columns, cells, strict=True)
        ]
        rows.append((fold(facts.host for facts in group), *texts))
    kept = [0]
    for i, column in enumerate(columns, start=1):
        if column.always or any(row[i] != "-" for row in rows):
            kept.append(i)
    names = ("host", *(column.name for column in columns))
    return Summary(
        columns=tuple(names[i] for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in rows),
        unknown=_reasons(hosts, {name for column in columns for name in column.facts}),
    )


def _reasons(hosts: Mapping[str, HostFacts], names: set[str]) -> tuple[str, ...]:
    """``node3: gpus, gpu.processes unknown: nvidia-smi: …``, said once a reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for host, facts in hosts.items():
        reasons: dict[str, list[str]] = {}
        for name in sorted(names):
            if facts[name].unknown:
                reasons.setdefault(facts[name].unknown, []).append(name)
        for why, what in reasons.items():
            found.setdefault((", ".join(what), why), []).append(host)
    return tuple(f"{fold(who)}: {what} unknown: {why}" for (what, why), who in found.items())


def parse_fact(name: str) -> str:
    """A fact's name; ConfigError, with the closest that there is, if no fact has it."""
    if name in FACTS:
        return name
    near = difflib.get_close_matches(name, FACTS, n=1, cutoff=0.4)
    raise ConfigError(
        "--fact",
        found=repr(name),
        expected="the name of a fact, as in provision/hosts/fact_table.py",
        remedy=f"did you mean {near[0]}?" if near else "invoke hosts --json names them all",
    )


def _value(fact: Fact) -> str:
    """A fact alone: text as it is, everything else as JSON."""
    if fact.unknown or fact.value is None or isinstance(fact.value, str):
        return str(fact)
    return json.dumps(fact.value, ensure_ascii=False, sort_keys=True)


def one_fact(hosts: Mapping[str, HostFacts], name: str) -> Summary:
    """That fact alone, hosts with the same value on one line."""
    groups: dict[str, list[str]] = {}
    for host, facts in hosts.items():
        groups.setdefault(_value(facts[name]), []).append(host)
    rows = tuple((fold(who), str(len(who)), value) for value, who in groups.items())
    return Summary(columns=("host", "hosts", name), rows=rows)


def hosts_json(hosts: Mapping[str, HostFacts], name: str | None = None) -> dict[str, Any]:
    """{host: {fact: …}}, never grouped: all facts, or the one named."""
    if name is None:
        return {host: facts.as_json() for host, facts in hosts.items()}
    return {host: {name: facts[name].as_json()} for host, facts in hosts.items()}
