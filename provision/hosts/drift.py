"""Drift: what a drift lock says of the hosts, against what they are. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from provision.errors import ConfigError
from provision.findings import UNREAD, Finding, Judge, Level, Report
from provision.hosts.facts import HostFacts
from provision.hosts.lock import HERE, HOSTS, LOCKED, WHEEL, Lock, equal
from provision.wheel.manifest import WheelManifest

_AGAIN = "after a change that is wanted, write it again: invoke lock"


def parse_allowed(names: str | None) -> frozenset[str]:
    """``--allow-drift``'s names, separated by commas; ConfigError for one that can't drift."""
    known = [*LOCKED, HOSTS, WHEEL]
    allowed = frozenset(name.strip() for name in (names or "").split(",") if name.strip())
    for name in sorted(allowed - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            "--allow-drift",
            found=name,
            expected=f"what a lock records: {', '.join(known)}",
            remedy=f"did you mean {near[0]}?" if near else "choose among these",
        )
    return allowed


def lockable(facts: Mapping[str, HostFacts], allowed: Collection[str]) -> Report:
    """What could not be read, and so not be locked; names ``allowed`` are left out of the lock."""
    findings = []
    for host, each in facts.items():
        for name, trait in LOCKED.items():
            fact = trait.read(each)
            if fact.unknown:
                level = Level.NOTE if name in allowed else Level.UNKNOWN
                remedy = f"{UNREAD}, or leave it out: --allow-drift {name}"
                findings.append(Judge(host=host)(name, level, fact, "a value to lock", remedy))
    return Report(findings=tuple(findings))


def drift(
    lock: Lock | None,
    facts: Mapping[str, HostFacts],
    manifest: WheelManifest | None,
    allowed: Collection[str] = (),
    *,
    unread: Collection[str] = (),
) -> Report:
    """What is no longer as locked: an error each, a note where ``allowed`` names it.

    A new host is drift, and so is one that is no longer there; ``unread`` names hosts that are
    in the hosts file and could not be asked. Without a lock there is nothing to hold them to.
    """
    if lock is None:
        return Report()
    findings: list[Finding] = []
    for host in [
        *facts,
        *[name for name in lock.hosts if name not in facts and name not in unread],
    ]:
        if host in facts and host in lock.hosts:
            findings += _compare_host(lock, facts[host], allowed)
            continue
        where = ("in the hosts file", "in the lock")
        found, expected = where if host in facts else where[::-1]
        expected = f"{expected} too (locked {lock.when})"
        level = Level.NOTE if HOSTS in allowed else Level.ERROR
        findings.append(Judge(host=host)(HOSTS, level, f"{found} only", expected, _remedy(HOSTS)))
    was, now = lock.wheel.get("sha256"), manifest.sha256 if manifest else None
    if was != now:
        level = Level.NOTE if WHEEL in allowed else Level.ERROR
        found = f"{manifest.wheel} (sha256 {manifest.sha256[:12]})" if manifest else "none"
        locked = f"{lock.wheel.get('name')} (sha256 {str(was)[:12]})" if was else "none"
        expected = f"{locked}, as locked {lock.when}"
        remedy = _remedy(WHEEL, "name the locked one with --wheel")
        findings.append(Judge(host=HERE)(WHEEL, level, found, expected, remedy))
    return Report(findings=tuple(findings))


def _compare_host(lock: Lock, facts: HostFacts, allowed: Collection[str]) -> list[Finding]:
    """One host's facts against its locked ones; one ok for all that are equal."""
    findings, unchanged, locked = [], 0, lock.hosts[facts.host]
    judge = facts.judge
    for name, trait in LOCKED.items():
        fact = trait.read(facts)
        found = str(fact) if fact.unknown else trait.text(fact.value)
        if name not in locked:
            remedy = "it could not be read then; write it again: invoke lock"
            findings.append(judge(name, Level.NOTE, found, "not locked", remedy))
        elif not fact.unknown and equal(fact.value, locked[name], trait.near):
            unchanged += 1
        else:
            level = Level.UNKNOWN if fact.unknown else Level.ERROR
            level = Level.NOTE if name in allowed else level
            expected = f"{trait.text(locked[name])}, as locked {lock.when}"
            remedy = _remedy(name, trait.undo)
            findings.append(judge(name, level, found, expected, remedy))
    ok = judge("drift", Level.OK, f"{unchanged} facts unchanged", f"as locked {lock.when}")
    return [ok, *findings] if unchanged else findings


def _remedy(name: str, undo: str = "") -> str:
    once = f"accept it this once: --allow-drift {name}"
    return "; ".join(part for part in (undo, once, _AGAIN) if part)
