"""The odd ones out: hosts held against the majority of them, trait by trait. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from provision.findings import Finding, Judge, Level
from provision.hosts.facts import Fact, HostFacts
from provision.hosts.traits import TRAITS, Trait

#: ``slots=`` of the hosts that the hosts file names one for.
Slots = Mapping[str, int]
_ONE_VALUE = "one value on all hosts"


def compare_among(
    hosts: Mapping[str, HostFacts], *, gpu: bool = True, deployed: bool = True, slots: Slots
) -> list[Finding]:
    """Findings for every trait, in the table's order; none where there is one host only.

    ``gpu``: the run is on GPUs; without, a difference between them is a note. ``deployed``: hold
    the environments against each other too. A majority is more than half of the hosts: without
    one, all are named.
    """
    findings: list[Finding] = []
    for trait in TRAITS if len(hosts) > 1 else ():
        if trait.name.startswith("environment.") and not deployed:
            continue
        judged = trait if gpu or not trait.gpu else replace(trait, level=Level.NOTE)
        findings += _compare_trait(judged, hosts, slots)
    return findings


def _compare_trait(trait: Trait, hosts: Mapping[str, HostFacts], slots: Slots) -> list[Finding]:
    having = {h: f for h, f in hosts.items() if not trait.needs or f[trait.needs].value is not None}
    facts = {host: trait.read(each) for host, each in having.items()}
    if not any(fact.unknown or fact.value is not None for fact in facts.values()):
        return []
    found = {h: str(f) if f.unknown else trait.text(f.value) for h, f in facts.items()}
    group = grouped(trait, {host: fact for host, fact in facts.items() if not fact.unknown})
    majority, count = majority_of(group)
    expected = f"{majority}, as {count} of {len(facts)} hosts" if majority else _ONE_VALUE
    if majority and count == len(facts):
        same = "the same on all hosts"
        return [Judge(host=h)(trait.name, Level.OK, found[h], same) for h in found]
    findings = []
    for host, fact in facts.items():
        if fact.unknown:
            # What can't be read is never ok, and no worse than the worst it could hide.
            level: Level = Level.UNKNOWN if trait.level is Level.ERROR else trait.level
        elif group[host] != majority:
            others = {majority} if majority else set(group.values()) - {group[host]}
            level = _level(trait, found[host], others)
            if trait.name == "gpu.count":
                level = _count_level(level, fact, others, slots.get(host))
        else:
            continue
        findings.append(Judge(host=host)(trait.name, level, found[host], expected, trait.why))
    return findings


def grouped(trait: Trait, facts: Mapping[str, Fact]) -> dict[str, str]:
    """Host → value, where numbers that count as equal are one: the lowest of them."""
    if not trait.near:
        return {host: trait.text(fact.value) for host, fact in facts.items()}
    group, lowest = {}, None
    numbers = {host: fact.value for host, fact in facts.items() if fact.value is not None}
    for host, value in sorted(numbers.items(), key=lambda pair: pair[1]):
        if lowest is None or value - lowest > trait.near * value:
            lowest = value
        group[host] = trait.text(lowest)
    return {host: group.get(host, trait.text(fact.value)) for host, fact in facts.items()}


def majority_of(values: Mapping[str, str]) -> tuple[str, int]:
    """The value that more than half of the hosts have, and how many; "" and 0 if none is."""
    ranked = Counter(values.values()).most_common(1)
    if not ranked or ranked[0][1] * 2 <= len(values):
        return "", 0
    return ranked[0]


def _level(trait: Trait, found: str, others: set[str]) -> Level:
    """The trait's level, or a note where only the fine print differs."""
    coarse = {trait.coarse(other) for other in others} - {trait.coarse(found)}
    return trait.level if coarse else Level.NOTE


def _count_level(level: Level, fact: Fact, others: set[str], slots: int | None) -> Level:
    """Fewer GPUs than the others is a fault, unless the hosts file asks for no more."""
    count = int(fact.value)
    fewer = any(count < int(other) for other in others)
    return level if fewer and (slots is None or slots > count) else Level.NOTE
