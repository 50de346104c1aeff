"""A deploy with nothing to do: every host is what it was when all of it was read, and says so.

That is kept on this machine, with a mark of each host's (hosts/mark.py). The next deploy has hosts
tell their marks first, through OpenSSH and sh, while Python still imports what else it needs. Where
every mark is the same, the facts are, and they are judged and planned with as ever. Else all of it
is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from provision.defaults import cache_home
from provision.hosts.mark import (
    KEPT,
    Known,
    apply_known,
    changed,
    parse_mark,
    read_known,
    read_mark_argv,
    read_reader,
)
from provision.inventory import Inventory
from provision.openssh import Question, apply_question
from provision.settings import Settings
from provision.show import Answer

if TYPE_CHECKING:
    from provision.deploy.spec import EnvSpec
    from provision.findings import Report
    from provision.fleet import Fleet
    from provision.hosts.facts import HostFacts
    from provision.steps import Plan

#: Seconds for all marks: nvidia-smi may take several where persistence mode is off.
_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class Same:
    """What deploying comes to on hosts that are what they were: an empty plan."""

    plan: Plan
    facts: Mapping[str, HostFacts]
    report: Report

    def did(self, spec: EnvSpec) -> dict[str, dict[str, object]]:
        """What was done to each host: nothing."""
        from provision.deploy.plan import deployed

        return deployed(spec, self.plan, self.facts)


def known_path(s: Settings, inventory: Inventory) -> Path:
    """Where it is kept what these hosts were, as they are reached with these settings."""
    hosts = [[host.label, host.user, host.port] for host in inventory]
    reached = json.dumps([str(s.ssh_config), hosts])
    name = hashlib.sha256(reached.encode()).hexdigest()[:16]
    return cache_home(os.environ) / "hosts" / f"{name}.json"


def gather_quickly(out: Answer, s: Settings, inventory: Inventory) -> tuple[EnvSpec, Same | None]:
    """The environment that is wanted, and what deploying it comes to where nothing changed."""
    with apply_asked(s, inventory) as question:  # hosts answer while the rest is imported here
        from provision.commands.environments import read_spec

        spec = read_spec(s)
        return spec, gather_same(out, s, inventory, spec, question) if question else None


@contextmanager
def apply_asked(s: Settings, inventory: Inventory) -> Iterator[Question | None]:
    """Have hosts tell their marks, if it is known what they were; the answers are awaited later.

    Not where hosts have Pythons of the user's own below the environment: marks don't cover those.
    """
    if s.partial or s.env_source == "existing" or not known_path(s, inventory).is_file():
        yield None
        return
    argv, config = read_mark_argv(), s.ssh_config
    with apply_question(inventory, argv, config=config, at_once=s.workers) as question:
        yield question


def gather_same(
    out: Answer, s: Settings, inventory: Inventory, spec: EnvSpec, question: Question
) -> Same | None:
    """What a deploy comes to if every host is what it was; None if that can't be said of all."""
    known = read_known(known_path(s, inventory))
    if known is None or known.reader != read_reader():
        return None
    answers = question.gather(_SECONDS)
    marks = {label: parse_mark(answers.get(label, "")) for label in inventory.labels}
    if not changed(known, marks):
        if same := judge(spec, s.torch, inventory, known):
            when = datetime.fromtimestamp(known.at).astimezone()
            out.say(f"every host is as it was on {when:%Y-%m-%d %H:%M:%S}, when all of it was read")
            out.report(same.report)
            out.plan(same.plan)
        return same
    out.say("not every host is as it was, or says so at once: all of it is read again")
    return None


def judge(spec: EnvSpec, torch: str, inventory: Inventory, known: Known) -> Same | None:
    """Hold hosts that are what they were against the wheel and the environment, as any deploy does.

    None if one does not fit, or lacks anything: another environment is wanted now, or another rule
    holds. Pure.
    """
    from provision.deploy.plan import plan_deploy
    from provision.hosts.facts import parse_facts
    from provision.hosts.parity import compare

    facts = {label: parse_facts(label, known.facts[label]) for label in inventory.labels}
    report = compare(spec.manifest, torch, facts, deployed=False)
    if not report.ok:
        return None
    plan = plan_deploy(spec, facts)
    return Same(plan=plan, facts=facts, report=report) if plan.empty else None


def apply_remembered(out: Answer, s: Settings, fleet: Fleet, spec: EnvSpec) -> None:
    """Keep what the hosts are, each one's mark first: for the next deploy.

    Nothing is kept if a host does not answer, has no whole mark or, by now, something to do.
    """
    from provision.hosts.facts import gather_facts

    if s.partial or s.env_source == "existing":
        return
    gathered = gather_facts(fleet, mark=read_mark_argv(), say=out.say)
    marks = {host: parse_mark(said) for host, said in gathered.marks.items()}
    known = Known(
        reader=read_reader(),
        at=time.time(),
        marks={host: mark for host, mark in marks.items() if mark},
        facts={
            host: {name: fact for name, fact in facts.as_json().items() if name in KEPT}
            for host, facts in gathered.facts.items()
        },
    )
    inventory = fleet.inventory
    whole = set(known.marks) == set(known.facts) == set(inventory.labels)
    if whole and judge(spec, s.torch, inventory, known):
        path = known_path(s, inventory)
        try:
            apply_known(path, known)
        except OSError as error:
            out.say(f"{path}: {error.strerror}: the next deploy reads all of the hosts again")
