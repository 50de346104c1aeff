"""One run on hosts that stand by: may it start, start it, follow it, what it came to."""

from __future__ import annotations

from provision.commands.train.readiness import Readiness, gather_readiness
from provision.commands.train.report import apply_reported, kept_facts
from provision.deploy.spec import EnvSpec
from provision.fleet import Fleet
from provision.launch.apply import apply_launch, apply_start
from provision.launch.plan import plan_launch
from provision.launch.prepare import (
    Program,
    clock_offsets,
    make_run_spec,
    read_new_run_id,
)
from provision.launch.record import apply_kept
from provision.launch.results import RunResult
from provision.launch.standby import Standby
from provision.launch.states import State
from provision.memory.judge import (
    after_failure,
    compare_peaks,
    peak_lines,
    read_peaks,
)
from provision.script import script_argv
from provision.settings import Settings
from provision.show import Answer


def apply_run(
    out: Answer, s: Settings, fleet: Fleet, env: EnvSpec, program: Program, standby: Standby
) -> RunResult | None:
    """One run; None if it was detached from."""
    ready = gather_readiness(out, s, fleet, env, program.recipe)
    (out.report if s.print_commands else out.require)(ready.report)
    spec = make_run_spec(s, ready.wanted, ready.hosts, read_new_run_id(program), program)
    launch = plan_launch(spec, program.code, script_argv)
    out.launch(launch, printed=s.print_commands)
    # Whoever follows it to its end may not be this command.
    apply_kept(s.runs / launch.run, kept_facts(ready.facts))
    if s.detach:
        apply_start(fleet, launch, standby, out.say)
        out.add(run=launch.run, state=State.RUNNING, run_dirs=launch.run_dirs)
        out.text(f"{launch.run} runs: invoke attach {launch.run}, invoke stop {launch.run}")
        return None
    offsets = clock_offsets(ready.facts)
    result = apply_launch(fleet, launch, standby, s.runs, out.say, offsets)
    apply_end(out, ready, result)
    return result


def apply_end(out: Answer, ready: Readiness, result: RunResult) -> None:
    """How a run ended; what it took beside what was planned; for want of memory, what to change."""
    out.outcome(result)
    metrics = result.collected / "hosts" / ready.wanted.node0 / "metrics.jsonl"
    rows, first = compare_peaks(ready.memory, read_peaks(metrics)), result.outcome.first_failure
    out.add(peaks=rows)
    offsets = clock_offsets(ready.facts)
    apply_reported(out, result, {**kept_facts(ready.facts), "clock_offsets": offsets})
    if rows:
        out.text("\n".join(peak_lines(rows)))
    advice = first and after_failure(ready.memory, first.reason, first.lines)
    if advice:
        out.add(memory_advice=advice)
        out.text(advice)
