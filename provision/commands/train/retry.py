"""The steps of --retries: wait until all hosts of a failed run are back, and begin it again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from provision.commands.train.report import apply_attached
from provision.commands.train.resume import gather_resume
from provision.errors import ProvisionError, UnreachableError
from provision.fleet import Fleet
from provision.launch.failure import RunOutcome
from provision.launch.prepare import Program
from provision.launch.progress import clock
from provision.launch.results import RunResult, apply_results
from provision.launch.runs import KnownRun, gather_runs
from provision.launch.states import State
from provision.settings import Settings
from provision.show import Answer, Stop

#: Begins a run, and follows it to its end.
RunAgain = Callable[[Settings, Program], RunResult | None]

#: Seconds between two looks at hosts that are not back, and between two lines that say so.
LOOK, SAY = 3.0, 15.0
#: Seconds that a host has for an answer while others are waited for.
ANSWER = 20.0
#: Seconds before the next try, where one could not begin: a driver or a mount may still come up.
PAUSE = 30.0


def wants_retry(result: RunResult) -> bool:
    """Whether a run ended in a way that may be another one the next time."""
    return not result.interrupted and result.outcome.state in (State.FAILED, State.LOST)


def why_not_back(
    run: KnownRun | None, errors: Mapping[str, ProvisionError], hosts: tuple[str, ...]
) -> dict[str, str]:
    """What each host of a run that has ended is still waited for; empty once all are back. Pure."""
    told = run.nodes if run else {}
    waits = {}
    for host in hosts:
        if host in errors:
            waits[host] = errors[host].found
        elif host not in told:
            waits[host] = "it does not tell of the run"
        elif run and host in run.running:
            waits[host] = "its part of the run has not ended"
    return waits


def named(waits: Mapping[str, str]) -> str:
    """Hosts, each with why it is waited for."""
    return "; ".join(f"{host}: {why}" for host, why in waits.items())


def waiting(waited: float, within: float, waits: Mapping[str, str]) -> str:
    """That hosts are waited for, since when and for how long at most."""
    return f"waiting for hosts, {clock(waited)} of {clock(within)}: {named(waits)}"


def gather_back(out: Answer, fleet: Fleet, result: RunResult, within: float) -> KnownRun:
    """The run that has ended, once all of its hosts tell of it again.

    Raises UnreachableError if they don't ``within`` so many seconds.
    """
    outcome = result.outcome
    for host in outcome.lost:
        fleet.disconnect(host)  # what was connected there may take half a minute to be known as cut
    hosts = tuple(dict.fromkeys((*(rank.host for rank in outcome.ranks), *outcome.lost)))
    name, began, told = outcome.run, time.monotonic(), float("-inf")
    if outcome.lost:  # at once: the first look at a host without power takes as long as a login may
        told = 0.0
        out.say(waiting(told, within, outcome.lost))
    while True:
        runs, errors = gather_runs(fleet, timeout=ANSWER)
        run = next((run for run in runs if run.run == name), None)
        waits = why_not_back(run, errors, hosts)
        if run and not waits:
            return run
        if run and set(hosts) == set(run.running):  # only this controller's link had gone
            began = time.monotonic()
        for host in errors:
            fleet.disconnect(host)
        waited = time.monotonic() - began
        if waited > within:
            raise UnreachableError(
                f"retry of {name}",
                found=f"after {clock(waited)}, {named(waits)}",
                expected="all of its hosts up",
                remedy=f"bring them back, then invoke resume {name} (--retry-within waits longer)",
            )
        if waited - told > SAY:
            told = waited
            out.say(waiting(waited, within, waits))
        time.sleep(LOOK)


def apply_retries(
    out: Answer, s: Settings, fleet: Fleet, program: Program, result: RunResult, run_again: RunAgain
) -> None:
    """Begin a failed run again, up to so many times. One that could not begin counts as a try.

    How the run ended stays the answer, and its exit code the command's, until another has begun.
    """
    for left in range(s.retries, 0, -1):
        if not wants_retry(result):
            return
        out.say(f"{result.outcome.state}: trying again, {left} of {s.retries} retries left")
        again = None
        try:
            run = gather_back(out, fleet, result, s.retry_within)
            if run.ended and run.ended.state not in (State.FAILED, State.LOST):
                apply_ended(out, s, fleet, run, run.ended)
                return
            again = run_again(*gather_again(out, s, fleet, run, program))
        except Stop:  # findings, which have been shown
            out.say("it could not begin again")
        except ProvisionError as error:
            out.add(error=error.as_json())
            out.say(f"it could not begin again: error: {error}")
        if again:
            out.values.pop("error", None)
            result = again
        elif left > 1:
            time.sleep(PAUSE)


def apply_ended(out: Answer, s: Settings, fleet: Fleet, run: KnownRun, outcome: RunOutcome) -> None:
    """What became of a run that only this controller took for lost: it came to its own end."""
    result = apply_results(fleet, outcome, run.run_dirs, run.outputs, s.runs, out.say)
    out.outcome(result)
    apply_attached(out, fleet, run, result, stopping=run.stop_came_first)


def gather_again(
    out: Answer, s: Settings, fleet: Fleet, run: KnownRun, program: Program
) -> tuple[Settings, Program]:
    """What the run was once more, from its newest whole checkpoint; a script from its beginning."""
    if program.script:
        out.add(resumed_from=run.run, resumed_step=None)
        out.say("the script begins again: what it goes on from is its own to know")
        return s, program
    # Nothing was named for this: all is as it was.
    resume = gather_resume(out, replace(s, given=frozenset()), fleet, run, s.deepspeed)
    return resume.settings, replace(program, recipe=resume.recipe)
