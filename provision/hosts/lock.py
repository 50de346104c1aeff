"""The drift lock: what every host was when the fleet was found good, as a file to keep in git.

One fact a line, sorted, so that a diff reads as what changed. It holds what a run depends on
(traits.py) and nothing that changes by itself or is nobody's business: no clocks, no free space, no
machine ids, GPU serials, addresses or users.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.files import apply_text
from provision.hosts.facts import HostFacts
from provision.hosts.traits import TRAITS
from provision.wheel.manifest import WheelManifest

SCHEMA = 1
LOCKED = {trait.name: trait for trait in TRAITS if trait.locked}
#: What can drift beside the facts of a host: which hosts there are, and the wheel of a run.
HOSTS, WHEEL = "hosts", "wheel"
#: Who the wheel belongs to, among hosts.
HERE = "this checkout"


@dataclass(frozen=True, kw_only=True)
class Lock:
    """A drift lock.

    Attributes:
        written: when, UTC, ISO 8601.
        wheel: the wheel's file name and sha256; empty where there was none.
        hosts: host → fact → value; None where the host has no such thing.
    """

    written: str
    wheel: Mapping[str, str]
    hosts: Mapping[str, Mapping[str, Any]]

    @property
    def when(self) -> str:
        """When it was written, for people."""
        return self.written[:16].replace("T", " ") + " UTC"


def read_now() -> str:
    """The time now, as a lock records it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def make_lock(facts: Mapping[str, HostFacts], manifest: WheelManifest | None, written: str) -> Lock:
    """The lock of these hosts as they are; what is unknown of a host is left out."""
    found = {host: {n: t.read(each) for n, t in LOCKED.items()} for host, each in facts.items()}
    return Lock(
        written=written,
        wheel={"name": manifest.wheel, "sha256": manifest.sha256} if manifest else {},
        hosts={
            host: {name: fact.value for name, fact in sorted(each.items()) if not fact.unknown}
            for host, each in found.items()
        },
    )


def render_lock(lock: Lock) -> str:
    """The file's text."""
    values = {
        "schema": SCHEMA,
        "written": lock.written,
        "wheel": dict(lock.wheel) or None,
        "hosts": {host: dict(facts) for host, facts in lock.hosts.items()},
    }
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def parse_lock(text: str, origin: str) -> Lock:
    """A lock's text → Lock; ``origin`` is its name, for messages.

    Raises ConfigError for what is no lock, or one with another schema or facts that this version
    does not know.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise _broken(origin, f"no JSON ({error})") from None
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        found = values.get("schema") if isinstance(values, dict) else type(values).__name__
        raise _broken(origin, f"schema {found}")
    written, wheel, hosts = values.get("written"), values.get("wheel") or {}, values.get("hosts")
    if (
        not isinstance(written, str)
        or not isinstance(wheel, dict)
        or not isinstance(hosts, dict)
        or not all(isinstance(facts, dict) for facts in hosts.values())
    ):
        raise _broken(origin, "other keys or types than those of a lock")
    for host, facts in hosts.items():
        if odd := sorted(set(facts) - set(LOCKED)):
            raise _broken(origin, f"{host}: {', '.join(odd)}, which this version does not know")
    return Lock(written=written, wheel=wheel, hosts=hosts)


def _broken(origin: str, found: str) -> ConfigError:
    return ConfigError(
        origin,
        found=found,
        expected=f"a drift lock of schema {SCHEMA}",
        remedy="restore it from git, or write a new one: invoke lock",
    )


def read_lock(path: Path, *, needed: bool = False) -> Lock | None:
    """The lock at ``path``; None if there is none and it is not ``needed``.

    Raises ConfigError if it is needed and not there, or can't be read or parsed.
    """
    try:
        return parse_lock(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        if not needed:
            return None
        remedy = "write one while the hosts are as they should be: invoke lock"
    except OSError as error:
        raise _broken(str(path), error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise _broken(str(path), "not UTF-8 text") from None
    raise ConfigError(str(path), found="no such file", expected="a drift lock", remedy=remedy)


def equal(one: Any, other: Any, near: float) -> bool:
    """Whether a value is as locked; numbers that are ``near`` each other count as equal."""
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    if near and numbers:
        return bool(abs(one - other) <= near * max(one, other))
    return bool(one == other)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What writing a lock changes in it, in words."""

    host: str
    name: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.host}: {self.name}: {self.was} → {self.now}"

    def as_json(self) -> dict[str, str]:
        """A change as ``--json`` shows it: keys are only ever added."""
        return {"host": self.host, "subject": self.name, "was": self.was, "now": self.now}


@dataclass(frozen=True, kw_only=True)
class LockPlan:
    """A lock to write, and what changes by it."""

    path: Path
    text: str
    changes: tuple[Change, ...]

    @property
    def title(self) -> str:
        """What is about to be done."""
        return f"lock {self.path}"

    @property
    def empty(self) -> bool:
        """Whether the lock says all this already."""
        return not self.changes

    def __str__(self) -> str:
        if self.empty:
            return f"{self.title}: nothing to do"
        return "\n".join([f"{self.title}:", *(f"  {change}" for change in self.changes)])

    def as_json(self) -> dict[str, object]:
        """As steps.Plan's: the ``plan`` key of ``--dry-run --json``."""
        steps = [
            {"host": c.host, "action": f"record {c.name} {c.now}", "why": f"it was {c.was}"}
            for c in self.changes
        ]
        return {"phases": [{"name": str(self.path), "steps": steps}] if steps else []}


def plan_lock(path: Path, old: Lock | None, new: Lock) -> LockPlan:
    """What writing ``new`` over ``old`` changes. Values that count as equal stay as they were."""
    before: Mapping[str, Mapping[str, Any]] = old.hosts if old else {}
    hosts = {host: _settled(facts, before.get(host, {})) for host, facts in new.hosts.items()}
    changes: list[Change] = []
    was, now = (old.wheel if old else {}), new.wheel
    if was != now:
        words = {"was": was.get("name", "none"), "now": now.get("name", "none")}
        changes.append(Change(host=HERE, name=WHEEL, **words))
    for host, facts in hosts.items():
        if host in before:
            changes += _changes(host, before[host], facts)
        else:
            now_words = f"{len(facts)} facts"
            changes.append(Change(host=host, name=HOSTS, was="not locked", now=now_words))
    for host in [name for name in before if name not in hosts]:
        changes.append(Change(host=host, name=HOSTS, was=f"{len(before[host])} facts", now="gone"))
    text = render_lock(Lock(written=new.written, wheel=new.wheel, hosts=hosts))
    return LockPlan(path=path, text=text, changes=tuple(changes))


def _settled(facts: Mapping[str, Any], was: Mapping[str, Any]) -> dict[str, Any]:
    """Facts, with the former value of each that counts as unchanged."""
    return {
        name: was[name] if name in was and equal(value, was[name], LOCKED[name].near) else value
        for name, value in facts.items()
    }


def _changes(host: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    def word(facts: Mapping[str, Any], name: str) -> str:
        return LOCKED[name].text(facts[name]) if name in facts else "not locked"

    return [
        Change(host=host, name=name, was=word(was, name), now=word(now, name))
        for name in sorted({*was, *now})
        if name not in was or name not in now or was[name] != now[name]
    ]


def apply_lock(plan: LockPlan) -> None:
    """Write the lock, whole or not at all; ConfigError if the folder can't be written to."""
    if plan.empty:
        return
    apply_text(plan.path, plan.text, remedy="name another file with --lock-file")
