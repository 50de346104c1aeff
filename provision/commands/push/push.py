"""The steps of a push, and of a run that uses what was pushed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from provision.build.cache import cache_dir
from provision.deploy.apply import ApplyPhase
from provision.errors import ProvisionError
from provision.findings import Report
from provision.fleet import Fleet, error_report
from provision.numbers import parse_rate
from provision.push.apply import Moved, apply_push
from provision.push.plan import compare_looks, gather_looks, is_local
from provision.push.pushed import Pushed, read_pushed
from provision.session import Say
from provision.settings import Settings
from provision.show import Answer
from provision.steps import Phase, Plan


def read_what(path: Path, say: Say) -> Pushed:
    """A local file or folder; its digests are kept beside the build cache."""
    return read_pushed(path, cache_dir(os.environ).parent / "digests", say)


def gather_all_looks(out: Answer, fleet: Fleet, what: Pushed) -> Mapping[str, Mapping[str, Any]]:
    """What every host has of it; the command ends here if one can't be asked."""
    looks = gather_looks(fleet, what)
    out.require(error_report(looks))
    return {host: look for host, look in looks.items() if not isinstance(look, ProvisionError)}


def apply_pushed(out: Answer, s: Settings, fleet: Fleet, plan: Plan) -> Moved:
    """Carry it out; the command ends here, with every host's finding, if it failed on one."""
    moved, rate = Moved(), parse_rate(s.limit)
    for phase in plan.phases:
        if phase.name == "push":
            there = [h for h in fleet.inventory.labels if h not in _hosts(plan, "push")]
            moved = apply_push(fleet, phase, out.say, rate=rate, holders=there, check=s.check)
            out.require(error_report(moved.errors))
        else:
            fleet.apply(Plan(title=plan.title, phases=(phase,)), out.say)
    return moved


def push_way(s: Settings, fleet: Fleet, homes: Sequence[str]) -> ApplyPhase:
    """How the push of a deploy is carried out; hosts that lack nothing pass on what they have.

    ``homes``: one host for each home.
    """
    rate = parse_rate(s.limit)

    def apply(phase: Phase, say: Say) -> dict[str, ProvisionError]:
        holders = [host for host in homes if host not in phase.hosts]
        moved = apply_push(fleet, phase, say, rate=rate, holders=holders, partial=s.partial)
        say(f"{moved.sent:,} bytes left this machine")
        return dict(moved.errors)

    return apply


def _hosts(plan: Plan, name: str) -> set[str]:
    return {host for phase in plan.phases if phase.name == name for host in phase.hosts}


def show_pushed(
    out: Answer, what: Pushed, looks: Mapping[str, Mapping[str, Any]], moved: Moved
) -> None:
    """Where it is now on each host, and what it took."""
    hosts = {
        host: {
            "path": look["path"],
            "changed": not look["there"] or moved.fetched.get(host, 0) > 0,
            "bytes_fetched": moved.fetched.get(host, 0),
        }
        for host, look in looks.items()
    }
    out.add(path=what.path, digest=what.digest, bytes=what.size, bytes_sent=moved.sent, hosts=hosts)
    came = sum(moved.fetched.values())
    out.say(f"{moved.sent:,} bytes left this machine, {came:,} came to the hosts")
    out.text(what.path)


def gather_local(out: Answer, s: Settings, fleet: Fleet) -> Settings:
    """Settings whose --model and --data are paths on the hosts: of local ones, what was pushed.

    The command ends here if a host does not have what is there now.
    """
    found, report = {}, Report()
    for flag, given in (("model", s.model), ("data", s.data)):
        paths = [given or ""]
        if flag == "data":  # a space behind a comma is no part of a path, as trainer/rows.py has it
            paths = [path.strip() for path in (given or "").split(",")]
        for number, path in enumerate(paths):
            if is_local(path):
                what = read_what(Path(path), out.say)
                looks = gather_all_looks(out, fleet, what)
                more = compare_looks(path, flag, what, looks)
                report = Report(findings=(*report.findings, *more))
                paths[number] = what.path
        found[flag] = ",".join(paths) or None
    out.require(report)
    return replace(s, model=found["model"], data=found["data"])
