"""What a host is, as values: each fact is known, absent, or unknown with the reason.

``absent`` means looked for and not there (no GPU); ``unknown`` means it could not be read. The two
are never the same, and unknown is never taken for ok. fact_table.py lists all facts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from packaging.version import InvalidVersion, Version

from provision.errors import ProvisionError
from provision.findings import Judge

# Facts that are known already are values like any other: no connection is needed for them.
if TYPE_CHECKING:
    from provision.fleet import Fleet
    from provision.session import Remote, Say


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One fact. ``value`` is None when absent or unknown; ``unknown`` is then the reason or ""."""

    value: Any = None
    unknown: str = ""

    @property
    def absent(self) -> bool:
        """Looked for, and not there."""
        return self.value is None and not self.unknown

    def __str__(self) -> str:
        if self.unknown:
            return f"unknown ({self.unknown})"
        return "-" if self.value is None else str(self.value)

    def as_json(self) -> dict[str, Any]:
        """{"value": …}, {"absent": true} or {"unknown": "reason"}."""
        if self.unknown:
            return {"unknown": self.unknown}
        return {"absent": True} if self.value is None else {"value": self.value}


@dataclass(frozen=True, kw_only=True)
class Python:
    """An interpreter on a host. ``venv``: whether it can make virtual environments with pip."""

    path: str
    version: str
    venv: bool

    @property
    def tag(self) -> str:
        """Its wheel tag, e.g. "cp311"."""
        major, minor, *_ = self.version.split(".")
        return f"cp{major}{minor}"


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """All facts of one host."""

    host: str
    facts: Mapping[str, Fact]

    def __getitem__(self, name: str) -> Fact:
        return self.facts.get(name, Fact(unknown=f"no fact named {name}"))

    @property
    def judge(self) -> Judge:
        """Makes findings about this host."""
        return Judge(host=self.host)

    @property
    def home(self) -> str:
        """Absolute HOME on the host."""
        return str(self["home"].value)

    @property
    def pythons(self) -> tuple[Python, ...]:
        """Interpreters found, in PATH order."""
        return tuple(Python(**row) for row in self["pythons"].value or ())

    def python_for(self, tag: str) -> Python | None:
        """The interpreter for a wheel's Python tag: one that can make a venv, if there is one."""
        fitting = [python for python in self.pythons if python.tag == tag]
        return min(fitting, key=lambda python: not python.venv, default=None)

    @property
    def gpus(self) -> tuple[Mapping[str, str], ...]:
        """GPUs, as fact_table.py shows them; empty when absent or unknown."""
        return tuple(self["gpus"].value or ())

    @property
    def environment(self) -> Mapping[str, Any]:
        """The record of the environment in use; empty when there is none."""
        return dict(self["environment"].value or {})

    def route(self, peer: str) -> Mapping[str, Any]:
        """How this host reaches ``peer``: address, source, interface (None if not known)."""
        return dict((self["routes"].value or {}).get(peer, {}))

    def as_json(self) -> dict[str, Any]:
        """{fact name: fact}."""
        return {name: fact.as_json() for name, fact in self.facts.items()}


def parse_facts(host: str, answer: Mapping[str, Any]) -> HostFacts:
    """Facts from probe.py's answer."""
    return HostFacts(
        host=host,
        facts={
            name: Fact(value=fact.get("value"), unknown=str(fact.get("unknown", "")))
            for name, fact in answer.items()
        },
    )


def parse_version(text: object) -> Version | None:
    """A version, or None for what is none ("-", None, "unknown (…)")."""
    try:
        return Version(str(text))
    except InvalidVersion:
        return None


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """Facts of the hosts that answered, in host order, and the errors of those that did not.

    ``marks``: what each host said to another command just before, where one was given.
    """

    facts: Mapping[str, HostFacts]
    errors: Mapping[str, ProvisionError]
    marks: Mapping[str, str] = field(default_factory=dict)


def clock_offset(sent: float, answer: Mapping[str, Any], received: float) -> Fact:
    """How far a host's clock is ahead of ours: {"seconds", "bound"}, true to ± bound.

    The host read its clock after ``sent`` by ours, and ended ``clock.took`` later, before
    ``received``; so the offset lies between the two extremes (NTP's own reasoning, RFC 5905 §8).
    """
    clock, took = answer.get("clock", {}).get("value"), answer.get("clock.took", {}).get("value")
    if clock is None or took is None:
        return Fact(unknown="the host did not tell its time")
    earliest, latest = clock + took - received, clock - sent
    offset = {"seconds": (earliest + latest) / 2, "bound": (latest - earliest) / 2}
    return Fact(value={key: round(value, 4) for key, value in offset.items()})


def gather_facts(
    fleet: Fleet,
    peers: Sequence[str] = (),
    paths: Sequence[str] = (),
    say: Say | None = None,
    mark: Sequence[str] = (),
) -> Gathered:
    """Probe every host, one round trip each.

    ``peers``: names or addresses to look up, and routes to them; ``paths``: paths on the hosts
    whose file systems are read beside the usual ones; ``mark``: argv that is run first (mark.py).
    """
    marks: dict[str, str] = {}
    asked = json.dumps({"peers": list(peers), "paths": list(paths)})

    def probe(remote: Remote) -> HostFacts:
        if mark:
            marks[remote.label] = remote.run(mark, timeout=fleet.options.answer_timeout)[1]
        sent = time.time()
        answer = remote.ask("probe", [asked], timeout=fleet.options.answer_timeout)
        offset = clock_offset(sent, answer, time.time())
        found = parse_facts(remote.label, answer)
        return HostFacts(host=found.host, facts={**found.facts, "clock.offset": offset})

    answers = fleet.fan_out(probe, say=say)
    return Gathered(
        facts={host: a for host, a in answers.items() if isinstance(a, HostFacts)},
        errors={host: a for host, a in answers.items() if isinstance(a, ProvisionError)},
        marks=marks,
    )
