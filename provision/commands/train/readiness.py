"""Whether a run may start on these hosts now, and whether it fits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from provision.commands.connect import gather_all, read_choice
from provision.commands.push.push import gather_local
from provision.deploy.spec import EnvSpec
from provision.findings import Report
from provision.fleet import Fleet, error_report
from provision.hosts.drift import drift, parse_allowed
from provision.hosts.facts import HostFacts
from provision.hosts.lock import read_lock
from provision.hosts.parity import compare
from provision.launch.numa import choose_binding
from provision.launch.prepare import make_run_hosts, make_wanted
from provision.launch.spec import RunHost
from provision.memory.judge import (
    RunMemory,
    plan_run,
)
from provision.memory.table import stage_table
from provision.preflight.evaluate import evaluate
from provision.preflight.nics import Way, choose_ways
from provision.preflight.ready import Ready, Wanted, gather_ready
from provision.preflight.rows import read_rows_program
from provision.settings import CHECKOUT, Settings
from provision.show import Answer


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """A run that could start if ``report`` is ok: its hosts, what it wants, its memory plan."""

    hosts: tuple[RunHost, ...]
    wanted: Wanted
    facts: Mapping[str, HostFacts]
    memory: RunMemory
    report: Report


def gather_readiness(
    out: Answer, s: Settings, fleet: Fleet, env: EnvSpec, recipe: Mapping[str, Any]
) -> Readiness:
    """Ask every host, and the network between them, whether this run could start."""
    found = fleet.fan_out(lambda remote: str(remote.cxn.host))
    out.require(error_report(found))
    s = gather_local(out, s, fleet)
    addresses = {host: str(address) for host, address in found.items()}
    facts = gather_all(out, fleet, list(addresses.values()))
    ways = choose_ways(facts, addresses)
    on = env.manifest.accelerator
    bind = partial(choose_binding, s.numa_binding, accelerator=on, launcher=s.launcher)
    hosts = make_run_hosts(read_choice(s), facts, on, ways, s.nproc, bind)
    wanted = make_wanted(s, hosts, addresses[hosts[0].name], ways, env.proof, recipe)
    answers = gather_ready(fleet, wanted, read_rows_program(CHECKOUT), out.say)
    memory = plan_run(wanted, facts, answers, auto=s.zero_auto)
    out.add(memory=memory.as_json())
    if memory.advice is not None and not memory.report.ok:
        out.table(*stage_table(memory.advice))
    wanted = replace(wanted, zero=memory.zero, offload=memory.offload)
    slots = fleet.inventory.slots
    report = _judged(s, env, slots, wanted, facts, ways, answers, memory)
    return Readiness(hosts=hosts, wanted=wanted, facts=facts, memory=memory, report=report)


def _judged(
    s: Settings,
    env: EnvSpec,
    slots: Mapping[str, int],
    wanted: Wanted,
    facts: Mapping[str, HostFacts],
    ways: Mapping[str, Way],
    answers: Ready,
    memory: RunMemory,
) -> Report:
    lock, allowed = read_lock(s.lock_file, needed=s.locked), parse_allowed(s.allow_drift)
    fits = compare(env.manifest, s.torch, facts, deployed=False, slots=slots)
    parts = (
        fits.hurting,
        drift(lock, facts, env.manifest, allowed).findings,
        evaluate(wanted, facts, ways, answers).findings,
        memory.report.findings,
    )
    return Report(findings=tuple(finding for part in parts for finding in part))
