"""The steps of train and resume: have the hosts stand by, run it, and go on after a failure."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from provision.commands.environments import read_spec
from provision.commands.flags import RUN, SCRIPT, TRAIN
from provision.commands.reach import connected_fleet
from provision.deploy.spec import EnvSpec
from provision.errors import ConfigError
from provision.fleet import Fleet, error_report
from provision.launch.failure import FAILED, LOST
from provision.launch.prepare import Program, env_python, read_program
from provision.launch.spec import LAUNCHERS
from provision.launch.standby import Standby, apply_standby
from provision.settings import CHECKOUT, Settings
from provision.show import Answer

if TYPE_CHECKING:
    from provision.launch.apply import RunResult


def apply_train(out: Answer, s: Settings, program: Program) -> None:
    """A run from preflight to its results; with --retries, again from its last checkpoint."""
    if s.retries < 0 or (s.retries and s.detach):
        raise ConfigError(
            "--retries",
            found=f"{s.retries}{' with --detach' if s.detach else ''}",
            expected="0 or more, and a controller that stays to see the failure",
            remedy="leave out one of them",
        )
    env = read_spec(s)
    with connected_fleet(s) as fleet:
        result = _apply_one(out, s, fleet, env, program)
        for left in range(s.retries, 0, -1):
            if result is None or result.interrupted or result.outcome.state not in (FAILED, LOST):
                return
            out.say(f"failed: trying again, {left} of {s.retries} retries left")
            s, program = gather_again(out, replace(s, run=result.outcome.run), fleet, program)
            result = _apply_one(out, s, fleet, env, program)


def apply_resumed(out: Answer, s: Settings) -> None:
    """``train --resume RUN``: as ``invoke resume RUN``, which takes nothing that says what runs."""
    flags = (*RUN, *TRAIN, *SCRIPT, "code", "launcher", "env", "print_commands")
    kept = {"master_addr", "master_port"}
    if other := [flag for flag in flags if flag in s.given and flag not in kept]:
        raise ConfigError(
            "--resume",
            found=f"--{other[0].replace('_', '-')} with it",
            expected="none: a run that goes on is what it was",
            remedy="leave it out, or train anew with --set resume_from_checkpoint=FOLDER",
        )
    apply_resume(out, replace(s, run=s.resume))


def apply_resume(out: Answer, s: Settings) -> None:
    """An ended run again, as it was, from its newest checkpoint that is whole on all hosts."""
    with connected_fleet(s) as fleet:
        again, program = gather_again(out, s, fleet, None)
    apply_train(out, again, program)


def gather_again(
    out: Answer, s: Settings, fleet: Fleet, program: Program | None
) -> tuple[Settings, Program]:
    """The settings and the program of a run that goes on from a run's newest whole checkpoint."""
    from provision.commands.following import gather_wanted
    from provision.launch.resume import gather_checkpoints, plan_resume

    run = gather_wanted(out, s, fleet)
    resume = plan_resume(run, gather_checkpoints(fleet, run), s)
    out.add(resumed_from=run.run, resumed_step=resume.step)
    for line in resume.lines():
        out.say(line)
    program = program or read_program(resume.settings, CHECKOUT, ())
    return resume.settings, replace(program, recipe=resume.recipe)


def _standing_by(
    out: Answer, s: Settings, fleet: Fleet, env: EnvSpec
) -> AbstractContextManager[Standby]:
    """The hosts, standing by to start; torchrun, where it is the launcher, is imported ahead."""
    if out.dry_run or s.print_commands:
        return nullcontext(Standby())
    return apply_standby(fleet, env_python(env.name) if s.launcher == LAUNCHERS[0] else "")


def _apply_one(
    out: Answer, s: Settings, fleet: Fleet, env: EnvSpec, program: Program
) -> RunResult | None:
    """One run; None if it was detached from."""
    with _standing_by(out, s, fleet, env) as standby:
        # Here rather than above: 0.14 s of imports, during which the hosts import torch.
        from provision.commands.starting import apply_run

        out.require(error_report(standby.errors))
        return apply_run(out, s, fleet, env, program, standby)
