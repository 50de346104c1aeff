"""The steps of one run on hosts that stand by: may it start, start it, follow it, its results."""

from __future__ import annotations

from provision.commands.running import gather_readiness, read_ended
from provision.deploy.spec import EnvSpec
from provision.fleet import Fleet
from provision.launch.apply import RunResult, apply_launch, apply_start
from provision.launch.plan import plan_launch
from provision.launch.prepare import Program, clock_offsets, make_run_spec, read_new_run_id
from provision.launch.standby import Standby
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
    if s.detach:
        apply_start(fleet, launch, standby, out.say)
        out.add(run=launch.run, state="running", run_dirs=launch.run_dirs)
        out.text(f"{launch.run} runs: invoke attach {launch.run}, invoke stop {launch.run}")
        return None
    offsets = clock_offsets(ready.facts)
    result = apply_launch(fleet, launch, standby, s.runs, out.say, offsets)
    read_ended(out, ready, result)
    return result
