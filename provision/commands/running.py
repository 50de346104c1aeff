"""The steps of a run: whether it may start, whether it fits, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from provision.commands.pushing import gather_local
from provision.commands.reach import connected_fleet, gather_all, read_choice
from provision.deploy.spec import EnvSpec
from provision.errors import ConfigError
from provision.findings import Report
from provision.fleet import Fleet, error_report
from provision.hosts.drift import drift, parse_allowed
from provision.hosts.facts import HostFacts
from provision.hosts.lock import read_lock
from provision.hosts.parity import compare
from provision.hosts.summary import summarize
from provision.launch.apply import RunResult
from provision.launch.numa import choose_binding
from provision.launch.prepare import clock_offsets, make_run_hosts, make_wanted
from provision.launch.report import apply_kept, apply_report
from provision.launch.spec import RunHost
from provision.memory.advise import Room
from provision.memory.asked import on_hosts, room_from_flags, room_of
from provision.memory.judge import (
    RunMemory,
    after_failure,
    compare_peaks,
    peak_lines,
    plan_run,
    read_peaks,
)
from provision.memory.spec import MemorySpec
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


def read_ended(out: Answer, ready: Readiness, result: RunResult) -> None:
    """How a run ended; what it took beside what was planned; for want of memory, what to change."""
    out.outcome(result)
    metrics = result.collected / "hosts" / ready.wanted.node0 / "metrics.jsonl"
    rows, first = compare_peaks(ready.memory, read_peaks(metrics)), result.outcome.first_failure
    out.add(peaks=rows)
    apply_ended(out, ready, result)
    if rows:
        out.text("\n".join(peak_lines(rows)))
    advice = first and after_failure(ready.memory, first.reason, first.lines)
    if advice:
        out.add(memory_advice=advice)
        out.text(advice)


def apply_ended(out: Answer, ready: Readiness, result: RunResult) -> None:
    """Keep what the hosts were beside what they sent, and write the run's report."""
    table = summarize(ready.facts, wide=True)
    kept = {
        "facts": {"columns": table.columns, "rows": table.rows},
        "lost": dict(result.outcome.lost),
        "clock_offsets": clock_offsets(ready.facts),
        "interrupted": result.interrupted,
    }
    apply_kept(result.collected, kept)
    try:
        path = apply_report(result.collected)
    except ConfigError as error:  # nothing came of any host: what there is to say has been said
        out.say(f"no report: {error}")
        return
    out.add(report=str(path))
    out.text(f"  report:  {path}")


def gather_room(out: Answer, s: Settings, spec: MemorySpec) -> tuple[MemorySpec, Room]:
    """The run on the hosts of the hosts file and their room, or on the machines of the flags."""
    if s.gpus is not None or not (s.hosts.is_file() or "hosts" in s.given):
        return spec, room_from_flags(s)
    with connected_fleet(s) as fleet:
        facts = gather_all(out, fleet)
    slots = {h.label: h.slots or len(facts[h.label].gpus) or 1 for h in fleet.inventory}
    return on_hosts(spec, slots), room_of(facts, slots)
